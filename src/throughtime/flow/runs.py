"""Calls that continue each other, put together as one run of one layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from ..errors import GraphError
from ..node.recording import Call, Key, Recording, Step
from .ancestry import Ancestry
from .flattening import flat

__all__ = ["Run", "find_runs", "given_numbers", "given_state", "left_state"]


@dataclass
class Run:
    """One sequence of one layer.

    Attributes:
        key: the layer.
        name: its name in the flow: the layer's, and ``@2`` and so on for a further run.
        numbers: its calls' numbers in the recording, in order.
        cut: for each call, whether the state was detached before it.
    """

    key: Key
    name: str
    numbers: list[int] = field(default_factory=list)
    cut: list[bool] = field(default_factory=list)


def find_runs(recording: Recording, ancestry: Ancestry) -> list[Run]:
    """Put the recorded calls together to runs (`docs/guides/reading-a-flow.md`).

    A call continues an earlier one of its layer where its initial state hangs on that one's final
    state, or has its numbers without a graph (a detached state; rows may have been zeroed). Of
    several that continue one, all but that from which most steps follow begin runs of their own.

    Args:
        recording: the trace's.
        ancestry: of its calls.

    Raises:
        GraphError: a state that is marked in pieces.
    """
    came_from = _came_from(recording, ancestry)
    goes_on = _goes_on(came_from)
    runs: list[Run] = []
    of: dict[int, Run] = {}
    for number, (last, cut) in came_from.items():
        call = recording.calls[number]
        if last is None or goes_on[last] != number:
            runs.append(run := Run(call.key, _numbered(runs, call.key)))
        else:
            run = of[last]
        run.cut.append(cut and bool(run.numbers))
        run.numbers.append(number)
        of[number] = run
        _refuse_pieces([recording.calls[n] for n in run.numbers[-3:]])
        if isinstance(call, Step) and call.begin is not None and len(run.numbers) > 1:
            call.begin.gate.state = frozenset()  # the state before it is another step's
    return runs


def _came_from(recording: Recording, ancestry: Ancestry) -> dict[int, tuple[int | None, bool]]:
    """Return for each call the one that it continues, and whether the state was detached."""
    found: dict[int, tuple[int | None, bool]] = {}
    seen: dict[Key, dict[int, None]] = {}
    ends: dict[Key, dict[int, None]] = {}
    for number, call in enumerate(recording.calls):
        if call.key.kind == "begin":
            continue
        earlier, open_ends = seen.setdefault(call.key, {}), ends.setdefault(call.key, {})
        last, cut = _continued(recording.calls, ancestry, number, earlier, open_ends)
        found[number] = last, cut
        if last is not None:
            open_ends.pop(last, None)
        earlier[number] = open_ends[number] = None
    return found


def _goes_on(came_from: dict[int, tuple[int | None, bool]]) -> dict[int, int]:
    """Return by what call each one is continued in its own run.

    Where several continue it, as where a plan is tried out between two steps, it is the one from
    which most steps follow, and one that got the state with its graph before one that did not.
    """
    best: dict[int, tuple[bool, int, int]] = {}
    for number, (last, cut) in reversed(came_from.items()):
        follow = 1 + (best[number][1] if number in best else 0)
        if last is not None:
            best[last] = max(best.get(last, (False, 0, 0)), (not cut, follow, -number))
    return {last: -number for last, (_, _, number) in best.items()}


def _refuse_pieces(last: Sequence[Call | Step]) -> None:
    """Raise where two places in the code mark one state in turns: its parts, one after the other.

    Raises:
        GraphError: they do.
    """
    sites = [call.site for call in last if isinstance(call, Step)]
    if len(sites) == 3 and None not in sites and sites[0] == sites[2] != sites[1]:
        name = last[0].key.name
        raise GraphError(
            f'the state of tt.mark("{name}", …) was marked twice in one step, at two places in '
            f'the loop. Mark the parts of a state together, as in tt.mark("{name}", h, c), and '
            "other states under other names."
        )


def _numbered(runs: list[Run], key: Key) -> str:
    """Return a layer's second run its own name: ``l0``, then ``l0@2`` and so on."""
    taken = {run.name for run in runs}
    name, count = key.name, 1
    while name in taken:
        count += 1
        name = f"{key.name}@{count}"
    return name


def _continued(
    calls: Sequence[Call | Step],
    ancestry: Ancestry,
    number: int,
    earlier: dict[int, None],
    ends: dict[int, None],
) -> tuple[int | None, bool]:
    """Return the call that this one continues, and whether the state was detached in between."""
    call = calls[number]
    if call.key.kind == "axis" or not earlier:
        return None, False
    state = given_state(call)
    behind = {n for n, _ in ancestry.behind(state, call.key)}
    fits = [n for n in behind if n in earlier and _rows(calls[n]) == _rows(call)]
    if fits:
        return max(fits, key=lambda n: (n in ends, n)), False
    if behind:
        return None, False
    if isinstance(call, Step) and call.key.kind == "mark":
        kept = (n for n in reversed(ends) if ancestry.computed_with(call.raw, _values(calls[n])))
        return next(kept, None), True
    return next((n for n in reversed(ends) if _detached(calls[n], call)), None), True


def given_state(call: Call | Step) -> list[Tensor]:
    """Return the tensors that a call took its state from, as the graph knows them."""
    if isinstance(call, Call):
        return [call.s_0]
    return list(call.raw if call.key.kind == "mark" else call.given)


def left_state(call: Call | Step) -> Tensor:
    """Return the numbers of a call's final state, (B, S)."""
    if isinstance(call, Step):
        return flat(call.values, call.rows)
    return call.tape.s[-1] if call.left is None else call.left


def _values(call: Call | Step) -> Sequence[Tensor]:
    """Return the numbers of a state's parts."""
    return call.values if isinstance(call, Step) else [left_state(call)]


def _rows(call: Call | Step) -> int:
    return left_state(call).shape[0]


def _detached(last: Call | Step, call: Call | Step) -> bool:
    """Check whether a call began from the numbers in which another ended, rows zeroed or not."""
    s, before = given_numbers(call), left_state(last)
    if s is None or s.shape != before.shape:
        return False
    zero = (s == 0).all(-1)
    return bool((zero | (s == before).all(-1)).all()) and bool((~zero).any())


def given_numbers(call: Call | Step) -> Tensor | None:
    """Return the numbers of the state that a call began from, (B, S); None: they are not known."""
    if isinstance(call, Call):
        return call.tape.s[0]
    return flat([part.detach() for part in call.given], call.rows) if call.given else None
