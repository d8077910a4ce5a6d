"""What a trace knows of a whole model: losses, parameters, and what hangs on what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..layers.stack import follows_autocast
from ..node.recording import Call, Recording, Step
from ..torch_state import sequence_number
from .ancestry import node_of
from .beside import edges_of
from .nonfinite import all_finite
from .runs import Run, given_state
from .severed import begins_blind, parts_cut, ran_blind
from .summed import Summed, summed_over_time

__all__ = ["Beginning", "Facts", "gather"]

# A graph of more nodes than this is not walked to its end, and nothing is said of its parameters.
NODES = 500_000


class Facts(NamedTuple):
    """What findings ask about a model beyond its recurrent layers.

    Attributes:
        losses: the values of the losses, (V,) or ().
        unreached: names of parameters that want a gradient and that no loss hangs on.
        reached: names of those that the losses hang on, were it by a factor of 0.
        nonfinite: names of parameters that hold inf or NaN.
        zeros: names of weights and factors outside the layers that want a gradient and are 0.
        frozen: names of layers none of whose parameters wants a gradient.
        fed_by: for each layer, the earlier ones that its input or initial state depends on.
        old_state: names of layers whose initial state comes from before the trace.
        parameters: for each layer, the names of its own parameters in the model.
        autocast: the dtype of the autocast that the layers met, or None.
        wide: names of layers that keep the precision of their weights under autocast, as this
            package's do except where torch's own module runs them on a GPU, outside a trace.
        blind: paths of modules that only ran without gradients enabled, and the parameters under
            them that want one.
        from_blind: names of layers whose initial state such a call of theirs left.
        parts_cut: for each layer, the steps before which some parts of its state were detached, and
            which ones.
        summed: what adds a scalar loss up over time, or None.
    """

    losses: Tensor
    unreached: tuple[str, ...] = ()
    reached: frozenset[str] = frozenset()
    nonfinite: tuple[str, ...] = ()
    zeros: tuple[str, ...] = ()
    frozen: frozenset[str] = frozenset()
    fed_by: Mapping[str, tuple[str, ...]] = {}
    old_state: frozenset[str] = frozenset()
    parameters: Mapping[str, tuple[str, ...]] = {}
    autocast: torch.dtype | None = None
    wide: frozenset[str] = frozenset()
    blind: Mapping[str, tuple[str, ...]] = {}
    from_blind: frozenset[str] = frozenset()
    parts_cut: Mapping[str, Mapping[int, tuple[int, ...]]] = {}
    summed: Summed | None = None


class Beginning(NamedTuple):
    """What is kept when a trace begins.

    Attributes:
        model: the traced model.
        number: the sequence number that autograd had reached.
    """

    model: nn.Module
    number: int

    @classmethod
    def of(cls, model: nn.Module) -> Beginning:
        """Note where autograd's count stands."""
        with torch.enable_grad():
            node = (torch.zeros((), device="cpu", requires_grad=True) * 1).grad_fn
        return cls(model, sequence_number(node))


def gather(
    recording: Recording, runs: Sequence[Run], losses: Tensor, beginning: Beginning
) -> Facts:
    """Look at the model and at the graph behind its losses; nothing is differentiated.

    Args:
        recording: the trace's.
        runs: its calls, put together.
        losses: what the flow was asked for.
        beginning: when the trace began, and of which model.

    Cost:
        one look at each node of the graph behind the losses.
    """
    named = dict(beginning.model.named_parameters())
    leaves = _leaves(losses.grad_fn)
    wanted = [n for n, p in named.items() if p.requires_grad and leaves is not None]
    reached = frozenset(n for n in wanted if id(named[n]) in (leaves or ()))
    own = {run.name: _own(run.name, named) for run in runs}
    known = {n for names in own.values() for n in names}
    weights = {id(named[n]) for names in own.values() for n in names}
    calls = {run.name: [recording.calls[n] for n in run.numbers] for run in runs}
    nodes = {node_of(call): name for name, of_run in calls.items() for call in of_run}
    nodes.pop(None, None)
    return Facts(
        losses=losses.detach().clone(),
        unreached=tuple(n for n in wanted if n not in reached),
        reached=reached,
        nonfinite=tuple(n for n, p in named.items() if not all_finite(p)),
        zeros=tuple(n for n in wanted if n in reached and n not in known and _blocks(named[n])),
        frozen=frozenset(
            n for n, ps in own.items() if ps and not any(named[p].requires_grad for p in ps)
        ),
        fed_by={name: _fed(name, of_run, nodes) for name, of_run in calls.items()},
        old_state=frozenset(
            name
            for name, of_run in calls.items()
            if _is_old(of_run[0], nodes, beginning.number, weights)
        ),
        parameters=own,
        autocast=recording.autocast,
        wide=frozenset(name for name in own if _is_wide(name, beginning.model)),
        blind={
            path: tuple(n for n, p in _under(path, named) if p.requires_grad)
            for path in ran_blind(recording, list(own))
        },
        from_blind=frozenset(
            run.name
            for run in runs
            if begins_blind(recording, recording.calls[run.numbers[0]], _path(run))
        ),
        parts_cut={run.name: cut for run in runs if (cut := parts_cut(recording.calls, run))},
        summed=summed_over_time(losses, {sum(call.T for call in of) for of in calls.values()}),
    )


def _blocks(weight: Tensor) -> bool:
    """Check whether a weight, or a single factor, is 0 everywhere; a bias of 0 blocks nothing."""
    return (weight.dim() >= 2 or weight.numel() == 1) and not bool(weight.detach().any())


def _is_wide(name: str, model: nn.Module) -> bool:
    """Check whether a layer of the flow is one of this package's that autocast leaves alone."""
    base = name.partition("@")[0]
    modules = dict(model.named_modules())
    module = modules.get(base, modules.get(base.rpartition(".")[0]))
    if isinstance(module, nn.RNNBase) and hasattr(type(module), "through"):
        return not follows_autocast(module)
    return hasattr(type(module), "through")


def _path(run: Run) -> str:
    """Return the path of a run's module: a layer's name ends in its number."""
    base = run.name.partition("@")[0]
    return base.rpartition(".")[0] if run.key.kind == "layer" else base


def _under(path: str, named: Mapping[str, Tensor]) -> Iterable[tuple[str, Tensor]]:
    return ((n, p) for n, p in named.items() if not path or n.startswith(f"{path}."))


def _own(name: str, named: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Return the names of a layer's parameters: those of its suffix, or all under its path."""
    base = name.partition("@")[0]
    inside = tuple(n for n in named if n.startswith(f"{base}."))
    path, _, suffix = base.rpartition(".")
    under = [n for n in named if not path or n.startswith(f"{path}.")]
    return inside or tuple(n for n in under if n.endswith(f"_{suffix}")) or tuple(under)


def _walk(ends: Iterable[Any], stop: Mapping[Any, str]) -> Iterable[Any]:
    """Yield the nodes behind some, each once; nothing behind those of ``stop``."""
    seen, waiting = set(), [end for end in ends if end is not None]
    while waiting and len(seen) <= NODES:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        yield node
        if node not in stop:
            waiting.extend(n for n, _ in edges_of(node) if n not in seen)


def _leaves(end: Any) -> set[int] | None:
    """Return the ids of the tensors that a graph ends in; None where it is too large to walk."""
    nodes = list(_walk([end], {}))
    if len(nodes) > NODES:
        return None
    return {id(node.variable) for node in nodes if hasattr(node, "variable")}


def _fed(name: str, calls: Sequence[Call | Step], nodes: Mapping[Any, str]) -> tuple[str, ...]:
    """Return the names of the other runs that stand directly behind one."""
    ends = [end.grad_fn for call in calls for end in _given(call)]
    found = dict.fromkeys(nodes[node] for node in _walk(ends, nodes) if node in nodes)
    return tuple(other for other in found if other != name)


def _given(call: Call | Step) -> Sequence[Tensor]:
    """Return what a call was computed from, as the graph knows it."""
    return (call.x, call.s_0) if isinstance(call, Call) else call.raw


def _is_old(call: Call | Step, nodes: Mapping[Any, str], began: int, weights: set[int]) -> bool:
    """Check whether a run's initial state was computed before the trace, by recurrent weights."""
    if call.key.kind in ("mark", "axis"):  # which know no state before the first
        return False
    ends = [state.grad_fn for state in given_state(call)]
    behind = [node for node in _walk(ends, nodes) if node not in nodes]
    leaves = [node for node in behind if hasattr(node, "variable")]
    steps = [node for node in behind if not hasattr(node, "variable")]
    before = any(sequence_number(node) < began for node in steps)
    return before and any(id(node.variable) in weights for node in leaves)
