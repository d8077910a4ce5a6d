"""How the gradient's norm falls or grows with the lag."""

from __future__ import annotations

import torch
from torch import Tensor

from ..tape import Tape

__all__ = ["beginning", "by_lag", "horizon", "profile"]


def beginning(tape: Tape) -> Tensor:
    """Give (T+1, B): the earliest k from which s_t was reached, by the last reset or first step."""
    steps = torch.arange(1, tape.T + 1, device=tape.s.device)[:, None]
    start = torch.zeros(tape.T, tape.B, dtype=torch.long, device=tape.s.device)
    if tape.reset is not None:
        start = torch.maximum(start, (steps * tape.reset).cummax(0).values)
    if tape.active is not None:
        begun = tape.active.cummax(0).values
        first = (~begun).sum(0)
        start = torch.maximum(start, first[None].expand_as(start))
    return torch.cat((torch.zeros_like(start[:1]), start))


def by_lag(norms: Tensor, enters: Tensor, tape: Tape) -> Tensor:
    """Give norms by lag, relative to lag 0: (V, L, B), NaN where there is no such pair.

    Args:
        norms: (V, T+1, B).
        enters: (V, B), the step of each loss; 0 where there is none.
        tape: knows rows' beginnings; pairs that a reset separates are left out.
    """
    V, _, B = norms.shape
    L = int(enters.max()) + 1
    lag = torch.arange(L, device=norms.device)[None, :, None]
    k = enters[:, None, :] - lag
    rows = torch.arange(B, device=norms.device).expand(V, B)
    start = beginning(tape)[enters, rows]
    there = (k >= start[:, None, :]) & (enters > 0)[:, None, :]
    along = norms.gather(1, k.clamp(min=0))
    at_zero = along[:, :1]
    there = there & (at_zero > 0) & at_zero.isfinite()
    return torch.where(there, along / at_zero, torch.nan)


def profile(norms: Tensor, enters: Tensor, tape: Tape) -> Tensor:
    """Give the median over losses and rows of the norm at each lag, relative to lag 0, (L,)."""
    relative = by_lag(norms, enters, tape)
    return torch.nanmedian(relative.transpose(0, 1).flatten(1), 1).values


def horizon(profile: Tensor, fraction: float) -> int:
    """Give the last lag at which the profile is still at or above ``fraction``; 0 if none is."""
    lags = (profile >= fraction).nonzero().flatten()
    return int(lags[-1]) if len(lags) else 0
