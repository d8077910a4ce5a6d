"""What reaches each step in all: the measure of one loss, however it may be split."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..flow import LayerView
from ..flow.lags import beginning
from .per_row import Rows, limits

__all__ = ["Total", "by_step", "total"]


class Total(NamedTuple):
    """The summed loss's gradient at every state s_k, (T+1, B) unless told.

    Attributes:
        reach: ‖dE/ds_k‖ over the largest ‖g_t‖ that entered at or after k; NaN where none did.
        growth: ‖dE/ds_k‖ over the sum of those ‖g_t‖. Where it is x, a single path grew by x
            or more, by the triangle inequality.
        counts: bool, whether what enters at k itself is at least ``fraction`` of the largest.
        start: the first k that is connected to s_k: a reset begins anew.
        last: the last step at or after k at which anything enters; 0 where there is none.
        initial: (B,), the k of the state before the row's first step.
    """

    reach: Tensor
    growth: Tensor
    counts: Tensor
    start: Tensor
    last: Tensor
    initial: Tensor


def total(layer: LayerView, fraction: float) -> Total:
    """Return what enters each step and what reaches it (eq. 9)."""
    norms, start = layer.total_norms.double(), beginning(layer.tape)
    entering = torch.cat((torch.zeros_like(norms[:1]), layer.entering_norms.double()))
    largest, summed = torch.zeros_like(norms), torch.zeros_like(norms)
    last = torch.zeros_like(start)
    largest[-1], summed[-1] = entering[-1], entering[-1]
    last[-1] = torch.where(entering[-1] > 0, layer.T, 0)
    for k in range(layer.T - 1, -1, -1):
        joined = start[k] == start[k + 1]
        largest[k] = torch.maximum(entering[k], torch.where(joined, largest[k + 1], 0))
        summed[k] = entering[k] + torch.where(joined, summed[k + 1], 0)
        later = torch.where(joined, last[k + 1], 0)
        last[k] = torch.where((later == 0) & (entering[k] > 0), k, later)
    counts = (last > 0) & (entering >= fraction * largest) & (entering > 0)
    # The initial state is no step. Where the first step is entered at, what the initial state gets
    # says nothing of any step, unless there is no other to look at.
    initial = _initial(layer)
    first = counts.gather(0, initial[None] + 1)[0]
    skipped = (start == initial) & first & (counts.sum(0) > 1)
    start = torch.where(skipped, initial + 1, start)
    k = torch.arange(layer.T + 1, device=norms.device)[:, None]
    inside = (last > 0) & (k >= start)
    return Total(
        reach=torch.where(inside, norms / largest, torch.nan),
        growth=torch.where(inside, norms / summed, torch.nan),
        counts=inside & counts,
        start=start,
        last=last,
        initial=initial,
    )


def _initial(layer: LayerView) -> Tensor:
    """Return the k of each row's initial state: 0, or the steps before the first that it takes."""
    active = layer.tape.active
    if active is None:
        return torch.zeros(layer.B, dtype=torch.long, device=layer.norms.device)
    return (~active.cummax(0).values).sum(0).clamp(max=layer.T - 1)


def by_step(found: Total, fraction: float) -> Rows:
    """Return what the total says of each row.

    The least is looked for where a stretch ends in which nothing enters that counts: just after a
    step at which a loss does, and at the row's beginning. In between, what is small may only be
    two losses that cancel at one step.
    """
    reach, start = found.reach, found.start
    inside = ~reach.isnan()
    k = torch.arange(len(reach), device=reach.device)[:, None]
    before = torch.cat((torch.zeros_like(found.counts[:1]), found.counts[:-1]))
    ends = inside & ((k == start) | (before & ~found.counts))
    far, far_at = torch.where(ends, reach, torch.inf).min(0)
    top, top_at = found.growth.nan_to_num(-1.0).max(0)
    slope, limit, half = _steepest(found, inside, k, fraction)
    reached = inside.any(0)
    return Rows(
        unit="step",
        curve=reach,
        reached=reached,
        far=torch.where(reached, far, -1.0),
        far_at=far_at,
        top=top,
        top_at=top_at,
        slope=slope,
        limit=limit,
        half=half,
        length=torch.where(inside, found.last - start, 0).amax(0),
        several=found.counts.sum(0) > 1,
    )


def _steepest(
    found: Total, inside: Tensor, k: Tensor, fraction: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return slope and limit of each row's steepest episode, over its far half, and that half."""
    start, last = found.start, found.last
    length = last - start
    half = last - length // 2
    where = inside & (k <= half) & (found.reach > 0) & found.reach.isfinite()
    # Sums by episode; an episode is named by the step at which it begins.
    x = (k - start).double()
    y = torch.where(where, found.reach, 1).log()
    n, sx, sy, sxx, sxy = (
        torch.zeros_like(x).scatter_add_(0, start, torch.where(where, value, 0))
        for value in (torch.ones_like(x), x, y, x * x, x * y)
    )
    spread = n * sxx - sx * sx
    slope = torch.where(n >= 3, -(n * sxy - sx * sy) / spread.clamp(min=1), 0)
    begins = inside & (k == start)
    limit = limits(torch.where(begins, length, 0), fraction)
    steepness = torch.where(begins, slope / limit, -torch.inf)
    at = steepness.max(0).indices[None]
    ends = torch.stack((at[0], half.gather(0, at)[0]))
    return slope.gather(0, at)[0], limit.gather(0, at)[0], ends
