"""torch's own graph of a module, and a node behind it that does what this graph cannot.

What arrives at the output passes the node and goes through torch's graph, as if `torch.nn` had made
it: no graph within a node, no second call of autograd. Where second derivatives or many losses at
once are asked for, or the output was written into, nothing enters torch's graph: the node runs
forward again, layer by layer, and returns the gradients of what went in by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..kernels.by_row import COLLECTORS
from ..kernels.chosen import Choice, note
from ..torch_state import is_batched
from .directions import Masks, Results, one_by_one

__all__ = ["CallContext", "node_behind"]


class CallContext(NamedTuple):
    """What a call needs besides its tensors.

    Attributes:
        module: whose layers they are.
        masks: which steps each row takes.
        choice: what `kernels.last_choice` says after it.
        names: of the weights.
        parts: how many parts of an initial state were given.
        given: how many tensors went in: x, these parts and the weights.
    """

    module: nn.RNNBase
    masks: Masks
    choice: Choice
    names: tuple[str, ...]
    parts: int
    given: int


def node_behind(
    call: CallContext, given: tuple[Tensor, ...], results: tuple[Tensor, ...]
) -> Results:
    """Return the results of torch's graph, behind the node.

    Args:
        call: what was called.
        given: what went in: x, the parts of the initial state, and the weights.
        results: what came out: h and the parts of the final states.
    """
    h, *finals = _apply(call, *given, *results)
    return h, tuple(finals)


class _Behind(torch.autograd.Function):
    """What torch's graph put out; gradients pass, or go back layer by layer where they cannot.

    Its inputs are what went into torch's graph and what came out of it; a gradient is returned
    for one or the other.
    """

    @staticmethod
    def forward(ctx: Any, call: CallContext, *tensors: Tensor) -> Any:
        """Return the results, each with a version count of its own."""
        ctx.call = call
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors[: call.given])
        shown = tuple([result.data for result in tensors[call.given :]])
        # Without their graph, which would be a cycle.
        ctx.shown = [result.detach() for result in shown]
        return shown

    @staticmethod
    def backward(ctx: Any, *arrived: Tensor | None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Hand on what arrived, or return the gradients of what went into torch's graph."""
        call: CallContext = ctx.call
        # torch's graph holds its results, in the memory that may have been written into.
        changed = any([result._version for result in ctx.shown])
        more = torch.is_grad_enabled() or changed or COLLECTORS or any(map(is_batched, arrived))
        if not more:
            note(call.choice)
            return (*(None,) * (1 + call.given), *arrived)
        needs = ctx.needs_input_grad[1 : 1 + call.given]
        found = _layer_by_layer(call, ctx.saved_tensors, needs, arrived)
        return (None, *found, *(None,) * len(arrived))


def _layer_by_layer(
    call: CallContext,
    given: Sequence[Tensor],
    needs: Sequence[bool],
    arrived: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """Return the gradients of x, of the initial state and of the weights, None where not needed."""
    parts, weights = tuple(given[1 : 1 + call.parts]), given[1 + call.parts :]
    with torch.enable_grad():
        named = dict(zip(call.names, weights, strict=True))
        h, finals = one_by_one(call.module, call.masks, given[0], parts or None, named)
    ends = [(r, g) for r, g in zip((h, *finals), arrived, strict=True) if g is not None]
    wanted = [i for i, need in zip(given, needs, strict=True) if need]
    if not ends or not wanted:
        return [None] * len(given)
    differentiable = torch.is_grad_enabled()
    found = iter(
        torch.autograd.grad(
            [r for r, _ in ends],
            wanted,
            [g if differentiable else g.contiguous() for _, g in ends],
            retain_graph=True,  # for vmap may come once for each loss
            create_graph=differentiable,
            allow_unused=True,
        )
    )
    return [next(found) if need else None for need in needs]


# What `torch.autograd.Function.apply` does when no transform is at work, which was checked before.
_apply = super(torch.autograd.Function, _Behind).apply  # pyright: ignore[reportAttributeAccessIssue]
