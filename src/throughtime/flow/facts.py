"""What a trace knows of a whole model: losses, parameters, and what hangs on what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..node.recording import Call, Recording
from ..torch_state import sequence_number

__all__ = ["Beginning", "Facts", "gather"]

# A graph of more nodes than this is not walked to its end, and nothing is said of its parameters.
NODES = 500_000


class Facts(NamedTuple):
    """What findings ask about a model beyond its recurrent layers.

    Attributes:
        losses: the values of the losses, (V,) or ().
        unreached: names of parameters that want a gradient and get none.
        nonfinite: names of parameters that hold inf or NaN.
        frozen: names of layers none of whose parameters wants a gradient.
        fed_by: for each layer, the earlier ones that its input or initial state depends on.
        old_state: names of layers whose initial state comes from before the trace.
        parameters: for each layer, the names of its own parameters in the model.
    """

    losses: Tensor
    unreached: tuple[str, ...] = ()
    nonfinite: tuple[str, ...] = ()
    frozen: frozenset[str] = frozenset()
    fed_by: Mapping[str, tuple[str, ...]] = {}
    old_state: frozenset[str] = frozenset()
    parameters: Mapping[str, tuple[str, ...]] = {}


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


def gather(recording: Recording, losses: Tensor, beginning: Beginning) -> Facts:
    """Look at the model and at the graph behind its losses; nothing is differentiated.

    Args:
        recording: the trace's.
        losses: what the flow was asked for.
        beginning: when the trace began, and of which model.

    Cost:
        one look at each node of the graph behind the losses.
    """
    named = dict(beginning.model.named_parameters())
    runs = {call.h.grad_fn: call.name for call in recording.calls if call.h.grad_fn is not None}
    leaves = _leaves(losses.grad_fn)
    wanted = (n for n, p in named.items() if p.requires_grad)
    own = {call.name: _own(call, named) for call in recording.calls}
    fed, old = {}, set()
    weights = {id(named[n]) for names in own.values() for n in names}
    for call in recording.calls:
        ends = [end.grad_fn for end in (call.x, call.s_0) if end.grad_fn is not None]
        fed[call.name] = _fed(ends, runs)
        if _is_old(call, runs, beginning.number, weights):
            old.add(call.name)
    return Facts(
        losses.detach().clone(),
        () if leaves is None else tuple(n for n in wanted if id(named[n]) not in leaves),
        tuple(n for n, p in named.items() if not bool(p.detach().isfinite().all())),
        frozenset(n for n, ps in own.items() if ps and not any(named[p].requires_grad for p in ps)),
        fed,
        frozenset(old),
        own,
    )


def _own(call: Call, named: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Return the names of a layer's parameters: those of its suffix, or all under its path."""
    path, _, suffix = call.name.partition("@")[0].rpartition(".")
    under = [n for n in named if not path or n.startswith(f"{path}.")]
    exact = tuple(n for n in under if n.endswith(f"_{suffix}"))
    return exact or tuple(under)


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
            waiting.extend(n for n, _ in node.next_functions if n is not None and n not in seen)


def _leaves(end: Any) -> set[int] | None:
    """Return the ids of the tensors that a graph ends in; None where it is too large to walk."""
    nodes = list(_walk([end], {}))
    if len(nodes) > NODES:
        return None
    return {id(node.variable) for node in nodes if hasattr(node, "variable")}


def _fed(ends: list[Any], runs: Mapping[Any, str]) -> tuple[str, ...]:
    """Return the names of the runs that stand directly behind some nodes."""
    return tuple(dict.fromkeys(runs[node] for node in _walk(ends, runs) if node in runs))


def _is_old(call: Call, runs: Mapping[Any, str], began: int, weights: set[int]) -> bool:
    """Check whether a run's initial state was computed before the trace, by recurrent weights."""
    if call.s_0.grad_fn is None:
        return False
    nodes = [node for node in _walk([call.s_0.grad_fn], runs) if node not in runs]
    leaves = [node for node in nodes if hasattr(node, "variable")]
    steps = [node for node in nodes if not hasattr(node, "variable")]
    before = any(sequence_number(node) < began for node in steps)
    return before and any(id(node.variable) in weights for node in leaves)
