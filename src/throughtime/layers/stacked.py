"""All layers and directions of a module in one call of torch's own, where that is what runs them.

cuDNN takes several layers and directions faster in one call than one after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .. import kernels, torch_state
from ..cells.base import AbstractCell
from ..kernels.by_row import CALLS, COLLECTORS
from ..kernels.chosen import is_allowed, note
from ..kernels.torch.chunk import Shape, together
from ..kernels.torch.fused import function, leaf, run
from ..kernels.torch.packing import Packing, packed
from ..node.bptt import Shown, own_precision
from ..schedules import FULL
from .inputs import Batch

__all__ = ["Results", "all_at_once"]

Results = tuple[Tensor, tuple[Tensor, ...]]
Again = Callable[[Tensor, tuple[Tensor, ...], dict[str, Tensor]], Results]


class _Call(NamedTuple):
    """What a call needs besides the tensors that may require grad.

    Attributes:
        run: torch's module, all but its tensors bound.
        shape: of the module.
        parts: how many parts a state has.
        how: the packing, or None.
        keep: whether the backward pass may be taken.
        names: of the weights.
        again: runs layer by layer, differentiably in every way.
    """

    run: Callable[..., tuple[Tensor, ...]]
    shape: Shape
    parts: int
    how: Packing | None
    keep: bool
    names: tuple[str, ...]
    again: Again


def all_at_once(
    module: nn.RNNBase,
    cell: AbstractCell,
    batch: Batch,
    x: Tensor,
    hx: tuple[Tensor, ...] | None,
    given: dict[str, Tensor] | None,
    again: Again,
) -> Results | None:
    """Return a module's output (T, B, D·H) and final states; None where layers run one by one.

    Args:
        module: of several layers or both directions, without a recording.
        cell: the first layer's.
        batch: the masks.
        x: inputs (T, B, I).
        hx: the parts of the initial state, each (L·D, B, ·); None: zeros.
        given: what stands in for the module's weights, by name; None: they themselves.
        again: runs layer by layer from x, the parts and such weights.
    """
    own = [module._parameters.get(name) for name in module._flat_weights_names]
    if not _apply(module, cell, batch, own):
        return None
    choice = kernels.choice(cell, batch.x)
    if choice.name != "torch":
        return None
    how = None
    if batch.active is not None or batch.reset is not None:
        how = packed(batch.active, batch.reset)
        if how is None:
            return None
    names = module._flat_weights_names
    weights = own if given is None else [given[name] for name in names]
    runs = module.num_layers * (2 if module.bidirectional else 1)
    if hx is None:
        hx = tuple(x.new_zeros(runs, x.shape[1], width) for width in cell.parts())
    inputs = (x, *hx, *weights)
    keep = torch.is_grad_enabled() and any(i.requires_grad for i in inputs)  # pyright: ignore
    shape = Shape.of(cell)._replace(layers=module.num_layers, both=bool(module.bidirectional))
    call = _Call(_bound(function(cell), module), shape, len(hx), how, keep, tuple(names), again)
    note(choice)
    h, *finals = _Stacked.apply(call, *inputs)  # pyright: ignore
    return h, tuple(finals)


def _bound(torchs: Any, module: nn.RNNBase) -> Callable[..., tuple[Tensor, ...]]:
    layers, both, bias = module.num_layers, module.bidirectional, bool(module.bias)

    def call(x: Tensor, parts: tuple[Tensor, ...], weights: list[Tensor], how: Packing | None):
        return run(torchs, x, parts, weights, how, bias=bias, layers=layers, both=both)

    return call


def _apply(module: nn.RNNBase, cell: AbstractCell, batch: Batch, weights: list) -> bool:
    """Check whether this is a call of torch's own kind."""
    if function(cell) is None or not batch.x.numel() or getattr(module, "through", FULL) != FULL:
        return False
    if (module.dropout and module.training) or CALLS or COLLECTORS:
        return False
    # The reverse direction ends a row with its first episode.
    if batch.reset is not None and module.bidirectional:
        return False
    return all(type(weight) is nn.Parameter for weight in weights)


class _Stacked(torch.autograd.Function):
    """torch's own graph within one node; layer by layer where more than it can is asked for."""

    @staticmethod
    def forward(ctx: Any, call: _Call, x: Tensor, *given: Tensor) -> Any:
        """Run the module: h, and the parts of the final states."""
        ctx.call, ctx.given = call, len(given)
        ctx.set_materialize_grads(False)
        parts, weights = given[: call.parts], list(given[call.parts :])
        if torch_state.is_on_gpu(x):
            weights = together(weights, call.shape)
        with own_precision(x), torch.set_grad_enabled(call.keep):
            wanted = zip((x, *parts, *weights), (x, *given), strict=True)
            leaves = [leaf(t) if own.requires_grad else t.detach() for t, own in wanted]
            parts, weights = leaves[1 : 1 + call.parts], leaves[1 + call.parts :]
            results = call.run(leaves[0], tuple(parts), weights, call.how)
        h = results[0].data
        ctx.shown = Shown(h.detach(), 0)
        if call.keep:
            ctx.save_for_backward(x, *given, *leaves, *results)
        return h, *(final.detach().clone() for final in results[1:])

    @staticmethod
    def backward(ctx: Any, *arrived: Tensor | None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Go back through torch's graph."""
        saved, n = ctx.saved_tensors, 1 + ctx.given
        outer, leaves, results = saved[:n], saved[n : 2 * n], saved[2 * n :]
        needs = ctx.needs_input_grad[1:]
        differentiable = torch.is_grad_enabled()
        more = differentiable or COLLECTORS or any(map(torch_state.is_batched, arrived))
        inputs = leaves
        if more or ctx.shown.changed() or not is_allowed("torch"):
            call, inputs = ctx.call, outer
            weights = dict(zip(call.names, outer[1 + call.parts :], strict=True))
            with torch.enable_grad():
                h, finals = call.again(outer[0], outer[1 : 1 + call.parts], weights)
            results = (h, *finals)
        ends = [(r, g) for r, g in zip(results, arrived, strict=True) if g is not None]
        wanted = [i for i, need in zip(inputs, needs, strict=True) if need]
        if not ends or not wanted:
            return (None,) * (1 + n)
        found = iter(
            torch.autograd.grad(
                [r for r, _ in ends],
                wanted,
                [g if differentiable else g.contiguous() for _, g in ends],
                retain_graph=inputs is outer or torch_state.keeps_graph(),
                create_graph=differentiable,
                allow_unused=True,
            )
        )
        return (None, *(next(found) if need else None for need in needs))
