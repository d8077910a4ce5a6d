"""A state that goes on under another name, so that gradients which meet it can be told apart."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from .recording import Gate, Key, Recording, Step

__all__ = ["Alias", "alias_of", "aliased", "anchor_on"]


class Alias(torch.autograd.Function):
    """Copies of tensors, whose node lets gradients through or stops them (`Gate`)."""

    @staticmethod
    def forward(ctx: Any, gate: Gate, anchor: Tensor, *parts: Tensor) -> tuple[Tensor, ...]:
        """Return a copy of each part: what is written into it in place leaves the part alone."""
        del anchor
        ctx.gate = gate
        ctx.set_materialize_grads(False)
        return tuple(part.clone() for part in parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:  # pyright: ignore
        """Return each part's gradient, or None where its gate is closed."""
        gate: Gate = ctx.gate
        if not gate.cut:
            return None, None, *grads
        return None, None, *(None if gate.stops_at(n) else g for n, g in enumerate(grads))


def anchor_on(recording: Recording, device: torch.device) -> Tensor:
    """Return the recording's anchor on a device."""
    return recording.anchor if device == recording.anchor.device else recording.anchor.to(device)


def alias_of(tensor: Tensor) -> Key | None:
    """Return the layer whose state a tensor is, as an alias that went on; None: it is none."""
    gate = getattr(tensor.grad_fn, "gate", None)
    return gate.key if isinstance(gate, Gate) else None


def aliased(
    recording: Recording, key: Key, parts: tuple[Tensor, ...], given: tuple[Tensor, ...] = ()
) -> Step:
    """Record parts of a state, and return the step with aliases of them.

    Args:
        recording: the trace's.
        key: the layer.
        parts: floating-point tensors.
        given: what the step was called with.
    """
    gate = Gate(recording.switch, key)
    anchor = anchor_on(recording, parts[0].device)
    out: tuple[Tensor, ...] = Alias.apply(gate, anchor, *parts)  # pyright: ignore
    # ``out`` keeps the node alive, also where somebody writes into it.
    node = out[0].grad_fn
    assert node is not None
    step = Step(
        key=key,
        gate=gate,
        given=given,
        raw=parts,
        out=out,
        values=tuple(part.detach() for part in parts),
        edges=tuple(GradientEdge(node, n) for n in range(len(out))),
    )
    recording.add(step, parts[0])
    return step
