"""Where a state comes without all of its graph: a part of it detached, or steps without gradient.

A state that is detached as a whole is in `Run.cut`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from ..node.recording import Call, Recording, Step
from .runs import Run, given_numbers, left_state

__all__ = ["begins_blind", "note_blind", "parts_cut", "ran_blind"]


def parts_cut(calls: Sequence[Call | Step], run: Run) -> dict[int, tuple[int, ...]]:
    """Return, by the step before which it happens, the numbers of the parts that are detached.

    A part counts where it has no graph, has the numbers that it had at the end of the call before,
    and another part does have a graph.

    Args:
        calls: all that was recorded.
        run: some of it that is one sequence.
    """
    found: dict[int, tuple[int, ...]] = {}
    first = 1
    for place, number in enumerate(run.numbers):
        call = calls[number]
        if place and not run.cut[place]:
            parts = _detached(call, left_state(calls[run.numbers[place - 1]]))
            if parts:
                found[first] = parts
        first += call.tape.T if isinstance(call, Call) else 1
    return found


def _detached(call: Call | Step, before: Tensor) -> tuple[int, ...]:
    graphs = _graphs(call)
    if not any(graphs) or all(graphs):
        return ()
    s = given_numbers(call)
    if s is None or s.shape != before.shape:
        return ()
    widths = _widths(call, len(graphs))
    if widths is None or sum(widths) != s.shape[-1]:
        return ()
    pairs = zip(s.split(widths, -1), before.split(widths, -1), graphs, strict=True)
    same = [not graph and bool((a == b).all() and (a != 0).any()) for a, b, graph in pairs]
    return tuple(n for n, one in enumerate(same) if one)


def _graphs(call: Call | Step) -> list[bool]:
    """Return for each part of a call's initial state whether it has a graph."""
    if isinstance(call, Step):
        return [part.requires_grad for part in call.given] if call.cell is not None else []
    node = call.s_0.grad_fn
    while node is not None and not node.name().startswith("Cat"):
        if len(node.next_functions) != 1:
            return []
        node = node.next_functions[0][0]
    return [] if node is None else [edge is not None for edge, _ in node.next_functions]


def _widths(call: Call | Step, count: int) -> list[int] | None:
    widths = (
        [part.shape[-1] for part in call.given] if isinstance(call, Step) else call.cell.parts()
    )
    return list(widths) if len(widths) == count else None


def ran_blind(recording: Recording, names: Sequence[str]) -> tuple[str, ...]:
    """Return the paths of modules that ran, and none of whose calls had gradients enabled.

    Args:
        recording: the trace's.
        names: of its runs.
    """
    bases = [name.partition("@")[0] for name in names]
    seen = {*bases, *(base.rpartition(".")[0] for base in bases)}
    return tuple(path for path in recording.blind if path not in seen)


def begins_blind(recording: Recording, call: Call | Step, path: str) -> bool:
    """Check whether a call began from a state that its module left without gradients enabled.

    Args:
        recording: the trace's.
        call: the first of a run.
        path: its module's.
    """
    left, s = recording.blind.get(path), given_numbers(call)
    if not left or s is None or not bool((s != 0).any()):
        return False
    widths = call.cell.parts() if call.cell is not None else (s.shape[-1],)
    if sum(widths) != s.shape[-1]:
        return False
    return all(any(_holds(leaf, part) for leaf in left) for part in s.split(list(widths), -1))


def _holds(leaf: Tensor, part: Tensor) -> bool:
    """Check whether a tensor has a part of a state, (B, H), among its slices."""
    if leaf.dim() < 2 or leaf.shape[-2:] != part.shape or leaf.dtype != part.dtype:
        return False
    return bool((leaf.reshape(-1, *part.shape) == part).flatten(1).all(1).any())


def note_blind(recording: Recording, path: str, module: nn.Module, out: Any) -> None:
    """Keep the state that a module left in a call without gradients enabled.

    Args:
        recording: the trace's.
        path: the module's.
        module: which; a layer returns its outputs first, of which nothing is kept.
        out: what it returned.
    """
    whole = isinstance(module, nn.RNNCellBase) or not isinstance(out, tuple)
    recording.blind[path] = tuple(_tensors(out if whole else out[-1]))


def _tensors(out: Any) -> Iterator[Tensor]:
    if isinstance(out, Tensor):
        yield out.detach()
    elif isinstance(out, (tuple, list)):
        for part in out:
            yield from _tensors(part)
