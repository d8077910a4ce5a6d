"""What of a gradient float16 or bfloat16 can hold, and the loss scale that would make it fit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..cells.base import rebind
from ..errors import DtypeError, InputTypeError, ThroughTimeError
from ..flow import Flow, LayerView
from ..kernels import losses
from ..tape import Tape
from .look import Look, Seen

__all__ = ["HALVES", "HalfRange", "half_range", "range_of"]

HALVES = (torch.float16, torch.bfloat16)
# What a scale may leave at 0, as a share of the terms.
LEFT = 1e-3
# Where `torch.amp.GradScaler` begins: for what the run made 0 already, whose size nobody knows.
USUAL = 2.0**16


@dataclass(frozen=True)
class HalfRange:
    """How much of one layer's gradient a dtype of 16 bits holds.

    The terms are the entries of g_t, which enters each step, and, where the layer itself computes
    in half precision, of dE/ds_t and of the adjoint of the pre-activations (eq. 9).

    Attributes:
        dtype: the dtype.
        terms: how many terms there are that are not 0.
        zero: the share of them that the dtype makes 0 (below its smallest subnormal number).
        coarse: the share that lies below its smallest normal number, so that digits are lost.
        largest: the largest of the terms and of the entries of dE/dW.
        scale: the loss scale, a power of two from 1 on, that would hold the terms: the smallest
            that leaves at most one in a thousand at 0, or, where that would overflow, the largest
            that does not.
        left: the share of the terms that can be seen that is still 0 at that scale.
    """

    dtype: torch.dtype
    terms: int
    zero: float
    coarse: float
    largest: float
    scale: float
    left: float

    @property
    def fits(self) -> bool:
        """Whether at that scale the largest term stays finite, and nearly all others are not 0."""
        return self.largest * self.scale < torch.finfo(self.dtype).max and self.left <= LEFT


def half_range(
    flow: Flow | Mapping[str, LayerView], dtype: torch.dtype = torch.float16
) -> dict[str, HalfRange]:
    """Return, for each layer of a flow, how much of its gradient half precision would hold.

    It may be asked of a flow in any precision: would this model train in float16, and at which loss
    scale? The gradient is taken as the losses of the flow make it, so trace the loss that
    `backward` is called on.

    Args:
        flow: what ``trace.flow`` returned.
        dtype: torch.float16 or torch.bfloat16.

    Returns:
        By the layer's name; layers whose numbers are not all finite are left out.

    Raises:
        InputTypeError: ``flow`` is no flow.
        DtypeError: another dtype.

    Cost:
        one sweep a layer for the summed loss; in float64 where the layer is in half precision.

    Example:
        >>> model = torch.nn.GRU(3, 5)
        >>> with tt.trace(model) as trace:
        ...     loss = 1e-9 * model(torch.randn(7, 2, 3))[0].pow(2).mean()
        >>> found = half_range(trace.flow(loss))["l0"]
        >>> found.zero, found.fits, found.left
        (1.0, True, 0.0)
    """
    if not isinstance(flow, Mapping):
        raise InputTypeError(
            f"flow must be what trace.flow(losses) gave; got {type(flow).__name__}."
        )
    if dtype not in HALVES:
        raise DtypeError(f"dtype must be torch.float16 or torch.bfloat16; got {dtype}.")
    return {
        seen.name: range_of(seen, dtype, inside=True)
        for seen in Look(flow).seen
        if seen.finite_back
    }


def range_of(seen: Seen, dtype: torch.dtype, *, inside: bool, lost: int = 0) -> HalfRange:
    """Return how much of one layer's gradient a dtype holds.

    Args:
        seen: the layer; all of it is finite.
        dtype: of 16 bits.
        inside: whether the layer itself computes in it, and not only what reads the layer.
        lost: how many terms the run made 0 already, beside those that can be seen.
    """
    sizes = terms_of(seen, inside=inside).sort().values
    count = len(sizes) + lost
    largest = max(float(sizes[-1]) if len(sizes) else 0.0, _largest_weight(seen))

    def zero_at(scale: float) -> float:
        flushed = int((_times(sizes, scale).to(dtype) == 0).sum()) + lost
        return flushed / count if count else 0.0

    unknown = lost > LEFT * count
    scale = _scale(sizes, dtype, largest, USUAL if unknown else 1.0)
    coarse = int((sizes < torch.finfo(dtype).tiny).sum()) + lost
    # Of those that the run made 0 already nobody knows what they would be at this scale.
    left = int((_times(sizes, scale).to(dtype) == 0).sum()) / max(len(sizes), 1)
    return HalfRange(dtype, count, zero_at(1.0), coarse / max(count, 1), largest, scale, left)


def _times(sizes: Tensor, scale: float) -> Tensor:
    return sizes.double() * scale


def _scale(sizes: Tensor, dtype: torch.dtype, largest: float, least_scale: float) -> float:
    """Return the smallest power of two that leaves next to nothing at 0 and overflows nothing."""
    if not len(sizes):
        return least_scale
    info = torch.finfo(dtype)
    least = float(sizes[int(LEFT * len(sizes))])
    needed = math.ceil(math.log2(info.smallest_normal * info.eps / least))
    room = math.ceil(math.log2(info.max / largest)) - 1
    return 2.0 ** max(min(max(needed, round(math.log2(least_scale))), room), 0)


def terms_of(seen: Seen, *, inside: bool) -> Tensor:
    """Return the sizes of the gradient's terms that are not 0, in any order.

    Args:
        seen: the layer.
        inside: whether those within the layer count too.
    """
    parts = [seen.layer.entering[seen.steps]]
    if inside:
        step = torch.arange(1, seen.layer.T + 1, device=seen.device)[:, None]
        reached = seen.steps & (step <= seen.last_of_episode(seen.enters))
        parts.extend(part[reached] for part in _inside(seen))
    sizes = torch.cat([part.abs().flatten().double() for part in parts])
    return sizes[sizes > 0]


def _inside(seen: Seen) -> list[Tensor]:
    """Return dE/ds_t of t = 1…T and the pre-activations' adjoints, as float64 would have them."""
    layer = seen.layer
    narrow = layer.tape.s.dtype in HALVES
    if seen.cell is None:
        return [layer.adjoint()[1:]]
    if not narrow or not layer.cell_alone:
        return [layer.adjoint()[1:], layer.preact_adjoints]
    tape = layer.tape
    kept = tuple(part.double() for part in tape.saved)
    wide = Tape(tape.x.double(), tape.s.double(), kept, tape.active, tape.reset)
    cell = rebind(seen.cell, {n: w.double() for n, w in seen.cell.weights().items()})
    try:
        found = losses(
            cell, wide, layer.entering[None].double(), norms=False, deltas=True, adjoints=True
        )
    except (ThroughTimeError, RuntimeError):  # a step function with tensors of its own dtype
        return [layer.adjoint()[1:], layer.preact_adjoints]
    assert found.deltas is not None and found.adjoints is not None
    return [found.deltas[0, 1:], found.adjoints[0]]


def _largest_weight(seen: Seen) -> float:
    """Return the largest entry of dE/dW, which sums over steps and rows; 0 where it has none."""
    names = () if seen.cell is None else seen.layer.weight_names
    sizes = [float(seen.layer.weight_grad(n).abs().max()) for n in names]
    return max((size for size in sizes if math.isfinite(size)), default=0.0)
