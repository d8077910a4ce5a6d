"""What a verdict looks at, for each batch row by itself."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..flow import LayerView, lags

__all__ = ["Rows", "median_by_lag"]

# So many losses of each row are followed to its beginning where a window cut the norms off.
FOLLOWED = 3


@dataclass(frozen=True)
class Rows:
    """How the gradient's norm falls and grows in each row; numbers are float64, (B,).

    Attributes:
        unit: "lag" where each loss is followed by itself, "step" where their sum is.
        curve: (L+1, B) or (T+1, B), the norm by lag or by step, relative to what entered; NaN
            where there is nothing to measure.
        reached: bool, whether any loss reaches the row.
        far: the norm where the least is left, and ``far_at`` the lag or step.
        top: the largest norm, and ``top_at`` the lag or step.
        slope: the rate over the far half, in nats per step back.
        limit: the rate at which ``fraction`` is reached just at the row's beginning.
        half: (2, B), the first and last lag or step of that half.
        length: how many steps the row's longest lag, or its longest episode, has.
        several: bool, whether several steps are entered at.
        followed: how many losses per row were followed beyond a window, and ``window`` the lag
            where it ends; 0 where there is none.
    """

    unit: str
    curve: Tensor
    reached: Tensor
    far: Tensor
    far_at: Tensor
    top: Tensor
    top_at: Tensor
    slope: Tensor
    limit: Tensor
    half: Tensor
    length: Tensor
    several: Tensor
    followed: int = 0
    window: int = 0

    def horizon(self, group: Tensor, fraction: float) -> int:
        """Return the last lag with at least ``fraction`` of the norm in a typical row, by lag."""
        lag = torch.arange(len(self.curve), device=self.curve.device)[:, None]
        last = torch.where(self.curve >= fraction, lag, 0).amax(0)
        return int(last[group].median())

    def silent(self, group: Tensor, fraction: float) -> tuple[int, int]:
        """Return the first and last step of the longest stretch that gets less than ``fraction``.

        That of a typical row; (0, −1) where there is none in any row.
        """
        low = (self.curve < fraction)[:, group]
        run, longest, end = low[0].long(), low[0].long(), torch.zeros_like(low[0], dtype=torch.long)
        for k in range(1, len(low)):
            run = torch.where(low[k], run + 1, 0)
            end = torch.where(run > longest, k, end)
            longest = torch.maximum(longest, run)
        there = longest > 0
        if not bool(there.any()):
            return 0, -1
        length, row = longest[there].median(0)
        last = int(end[there][row])
        return last - int(length) + 1, last


def median_by_lag(layer: LayerView, fraction: float, broken: Tensor) -> Rows:
    """Return what the losses' own norms say: each row's median over losses, by lag (eq. 9).

    Args:
        layer: the layer.
        fraction: what share of the lag-0 norm still counts as arriving.
        broken: (B,), the rows that hold inf or NaN.
    """
    profile = layer.row_profiles()
    farthest = lags.farthest(layer.norms, layer.enters, layer.tape)
    lag = torch.arange(len(profile), device=profile.device)[:, None]
    last = torch.where(profile.isnan(), -1, lag).amax(0)
    cut = (last < farthest) & ~broken
    if not bool(cut.any()):
        return _read(profile, fraction)
    back = lags.lengths(layer.norms, layer.enters, layer.tape)
    followed = _followed(layer, back, len(profile))
    rows = _read(torch.where(profile.isnan(), followed, profile), fraction)
    count = min(FOLLOWED, int((back >= 0).sum(0).max()))
    return replace(rows, followed=count, window=int(last[cut].max()))


def _followed(layer: LayerView, back: Tensor, length: int) -> Tensor:
    """Return the profile of a few losses per row that no window cuts off, (length, B).

    Of the losses in the order of how far back they can reach: the last, the middle one, and the
    one at a third.

    Args:
        layer: the layer.
        back: (V, B), how many steps lie behind each loss.
        length: how many lags there are.
    """
    order = back.argsort(dim=0, stable=True)
    count = (back >= 0).sum(0)
    V = len(back)
    norms, enters = [], []
    for rank in (count - 1, count // 2, count // 3):
        place = (V - count + rank).clamp(0, V - 1)
        chosen = order.gather(0, place[None])[0]
        norms.append(layer.follow(layer.loss_index[chosen]))
        enters.append(layer.enters.gather(0, chosen[None])[0])
    found = lags.by_row(torch.stack(norms), torch.stack(enters), layer.tape)
    missing = found.new_full((length - len(found), layer.B), torch.nan)
    return torch.cat((found, missing))


def _read(profile: Tensor, fraction: float) -> Rows:
    """Return what a profile (L+1, B) says of each row."""
    there = ~profile.isnan()
    lag = torch.arange(len(profile), device=profile.device)[:, None]
    last = torch.where(there, lag, 0).amax(0)
    # A norm may overflow although no entry of the gradient does.
    seen = profile.nan_to_num(-1.0)
    top, top_at = seen.max(0)
    first = last // 2
    slope = slopes(lag.double(), seen, there & (lag >= first))
    return Rows(
        unit="lag",
        curve=profile,
        reached=there.any(0),
        far=seen.gather(0, last[None])[0],
        far_at=last,
        top=top,
        top_at=top_at,
        slope=slope,
        limit=limits(last, fraction),
        half=torch.stack((first, last)),
        length=last,
        several=torch.zeros_like(there[0]),
    )


def limits(length: Tensor, fraction: float) -> Tensor:
    """Return the rate at which ``fraction`` is reached after so many steps, in nats per step."""
    return torch.where(length > 0, math.log(fraction) / length.double(), -math.inf)


def slopes(x: Tensor, values: Tensor, where: Tensor) -> Tensor:
    """Return the slope of ln(values) along axis 0 by least squares; 0 with fewer than 3 points."""
    where = where & (values > 0) & values.isfinite()
    count = where.sum(0).clamp(min=1)
    y = torch.where(where, values, 1).log()
    x = torch.where(where, x, 0)
    x = torch.where(where, x - x.sum(0) / count, 0)
    slope = (x * y).sum(0) / (x * x).sum(0)
    return torch.where(where.sum(0) >= 3, slope, 0)
