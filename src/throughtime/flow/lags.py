"""How the gradient's norm falls or grows with the lag."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..tape import Tape

__all__ = [
    "beginning",
    "by_lag",
    "by_row",
    "farthest",
    "horizon",
    "last_measured",
    "lengths",
    "median_profile",
]

# How many pairs are laid out by lag at a time.
PAIRS = 2**20


def beginning(tape: Tape) -> Tensor:
    """Return the earliest k from which s_t was reached, by a reset or the first step, (T+1, B)."""
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
    """Return norms by lag, relative to lag 0: (V, L, B), NaN where there is no such pair.

    Args:
        norms: (V, T+1, B).
        enters: (V, B), the step of each loss; 0 where there is none.
        tape: knows rows' beginnings; pairs that a reset separates are left out.
    """
    lags = torch.arange(int(enters.max()) + 1, device=norms.device)
    return _at(lags, norms, enters, _starts(enters, tape), tape).to(norms.dtype)


def median_profile(norms: Tensor, enters: Tensor, tape: Tape) -> Tensor:
    """Return the median over losses and rows of the norm at each lag, relative to lag 0, (L,)."""
    parts = _in_parts(norms, enters, tape)
    medians = [_median(part.transpose(0, 1).flatten(1), 1) for part in parts]
    return torch.cat(medians).to(norms.dtype)


def by_row(norms: Tensor, enters: Tensor, tape: Tape) -> Tensor:
    """Return the median over the losses alone, for each row: (L, B), float64."""
    return torch.cat([_median(part, 0) for part in _in_parts(norms, enters, tape)])


def farthest(norms: Tensor, enters: Tensor, tape: Tape) -> Tensor:
    """Return each row's longest lag, (B,), measured or not; −1 in a row that no loss reaches.

    A loss whose norm at lag 0 is 0 or not finite does not count, as in the profile.
    """
    return lengths(norms, enters, tape).amax(0)


def lengths(norms: Tensor, enters: Tensor, tape: Tape) -> Tensor:
    """Return how many steps lie behind each loss, (V, B); −1 where it does not reach the row."""
    at_zero = norms.gather(1, enters[:, None])[:, 0]
    counts = (enters > 0) & (at_zero > 0) & at_zero.isfinite()
    starts, taken = _starts(enters, tape), _taken(tape)
    if taken is not None:
        enters, starts = taken.gather(0, enters), taken.gather(0, starts)
    return torch.where(counts, enters - starts, -1)


def horizon(median_profile: Tensor, fraction: float) -> int:
    """Return the last lag at which the profile is at or above ``fraction``; 0 if none is."""
    lags = (median_profile >= fraction).nonzero().flatten()
    return int(lags[-1]) if len(lags) else 0


def last_measured(median_profile: Tensor) -> int:
    """Return the last lag at which the profile is a number; 0 if there is none."""
    lags = (~median_profile.isnan()).nonzero().flatten()
    return int(lags[-1]) if len(lags) else 0


def _starts(enters: Tensor, tape: Tape) -> Tensor:
    """Return the first k that is connected to each loss's step, (V, B)."""
    return beginning(tape).gather(0, enters)


def _taken(tape: Tape) -> Tensor | None:
    """Return how many steps up to k each row took, (T+1, B); None where it is k, but for the ends.

    A row pauses where calls of unequal length continue each other: an encoder's packed batch, and
    the decoder that goes on from it. What it did not take is no lag.
    """
    if tape.active is None:
        return None
    begun = tape.active.cummax(0).values
    goes_on = tape.active.flip(0).cummax(0).values.flip(0)
    pauses = begun & goes_on & ~tape.active
    if not bool(pauses.any()):
        return None
    return torch.cat((torch.zeros_like(pauses[:1]), ~pauses)).cumsum(0)


def _steps_back(lags: Tensor, enters: Tensor, tape: Tape) -> Tensor:
    """Return the step that lies so many behind each loss's, (V, L, B); below 0: there is none."""
    taken = _taken(tape)
    if taken is None:
        return enters[:, None, :] - lags[None, :, None]
    wanted = taken.gather(0, enters)[:, None, :] - lags[None, :, None]
    rows = wanted.permute(2, 0, 1).flatten(1).contiguous()
    k = torch.searchsorted(taken.T.contiguous(), rows)
    k = k.reshape(len(rows), *wanted.shape[:2]).permute(1, 2, 0)
    return torch.where(wanted < 0, -1, k)


def _at(lags: Tensor, norms: Tensor, enters: Tensor, starts: Tensor, tape: Tape) -> Tensor:
    """Return the norms at these lags, relative to lag 0: (V, len(lags), B), float64."""
    k = _steps_back(lags, enters, tape)
    there = (k >= starts[:, None, :]) & (enters > 0)[:, None, :]
    along = norms.gather(1, k.clamp(min=0)).double()
    at_zero = norms.gather(1, enters[:, None, :]).double()
    there = there & (at_zero > 0) & at_zero.isfinite()
    return torch.where(there, along / at_zero, torch.nan)


def _in_parts(norms: Tensor, enters: Tensor, tape: Tape) -> Iterator[Tensor]:
    """Yield what `by_lag` returns, some lags at a time: the whole is as large as the norms."""
    starts = _starts(enters, tape)
    lags = torch.arange(int(enters.max()) + 1, device=norms.device)
    for some in lags.split(max(1, PAIRS // max(1, enters.numel()))):
        yield _at(some, norms, enters, starts, tape)


def _median(values: Tensor, dim: int) -> Tensor:
    """Return the median along an axis without its NaN; of an even count, the mean of the middle.

    ``nanmedian`` takes the lower of the two middle values; that of −x is minus the upper one.
    """
    lower = torch.nanmedian(values, dim).values
    upper = -torch.nanmedian(-values, dim).values
    return torch.where(lower == upper, lower, lower / 2 + upper / 2)
