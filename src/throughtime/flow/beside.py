"""A layer that trains by the graph that it has without a trace, and is measured on one beside it.

What the model returns, and the gradient that trains it, are then the same to the last bit as
without a trace. A measurement's gradients take the recorded graph instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ..node.recording import Call, Recording, Step, Switch
from .checkpoints import refuse_reentrant

__all__ = ["edges_of", "run_beside"]


class Beside(torch.autograd.Function):
    """The layer's own numbers; their gradient goes its own way, or in a measurement the other."""

    @staticmethod
    def forward(ctx: Any, switch: Switch, plain: Tensor, recorded: Tensor) -> Tensor:
        """Return a copy of the layer's own result."""
        del recorded
        ctx.switch = switch
        ctx.set_materialize_grads(False)
        return plain.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Any, ...]:  # pyright: ignore
        """Return the gradient to the one graph or to the other."""
        return (None, None, grad) if ctx.switch.exact else (None, grad, None)


def edges_of(node: Any) -> list[Any]:
    """Return the nodes that a node of a traced graph hands its gradient on to in a measurement.

    Args:
        node: of autograd's graph.

    Returns:
        Pairs as ``next_functions`` has them, without those that lead nowhere.
    """
    following = node.next_functions
    if isinstance(getattr(node, "switch", None), Switch):  # that of `Beside`
        following = following[-1:]
    return [edge for edge in following if edge[0] is not None]


def run_beside(
    recording: Recording, path: str, module: nn.Module, plain: Callable[[], Any], ours: Any
) -> Any:
    """Run a layer as it is, and record it by this package's sweeps.

    Where these cannot take it, it is skipped, and the reason noted.

    Args:
        recording: the trace's.
        path: of the module in the traced model.
        module: the layer.
        plain: runs it as it is.
        ours: runs it by the sweeps, and records.
    """
    result = plain()
    before = len(recording.calls)
    try:
        refuse_reentrant(path)
        if not torch.is_grad_enabled():
            return result
        with _without_random_numbers(module):
            found = ours()
        pairs = list(zip(_tensors(result), _tensors(found), strict=True))
        laid = [_joined(recording, own, other) for own, other in pairs]
    except Exception as error:
        del recording.calls[before:]
        recording.skipped[path] = f"could not be followed: {error}"
        return result
    _note_final_states(recording.calls[before:], _tensors(result)[1:], module)
    return _like(result, laid)


def _joined(recording: Recording, plain: Tensor, recorded: Tensor) -> Tensor:
    if not recorded.requires_grad:
        return plain
    return Beside.apply(recording.switch, plain, recorded.to(plain.dtype))  # pyright: ignore


def _without_random_numbers(module: nn.Module) -> AbstractContextManager[None]:
    """Leave the generators as they are: between our layers lies a dropout of its own."""
    if not (getattr(module, "dropout", 0) and module.training):
        return nullcontext()
    on = next(module.parameters()).device
    return torch.random.fork_rng([on] if on.type == "cuda" else [])


def _tensors(result: Any) -> list[Tensor]:
    """Return the output and the parts of the final state."""
    output, state = result
    data = output.data if isinstance(output, PackedSequence) else output
    return [data, *(state if isinstance(state, tuple) else (state,))]


def _like(result: Any, tensors: list[Tensor]) -> Any:
    """Return tensors as a layer returns them."""
    output, state = result
    data, *parts = tensors
    if isinstance(output, PackedSequence):
        data = PackedSequence(data, *output[1:])
    return data, tuple(parts) if isinstance(state, tuple) else parts[0]


def _note_final_states(
    calls: Sequence[Call | Step], parts: list[Tensor], module: nn.Module
) -> None:
    """Note the final states as they went on, (B, S) a layer: a later call is known by them."""
    states = torch.cat([part.detach() for part in parts], -1)
    by_layer = states if isinstance(module, nn.RNNBase) else states[None]
    for call, state in zip(calls, by_layer, strict=False):
        if isinstance(call, Call):
            call.left = state.reshape(call.tape.B, -1)
