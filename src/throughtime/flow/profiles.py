"""What a layer's flow says by lag: the profile, each row's own, and how far they were measured."""

from __future__ import annotations

from functools import cached_property

from torch import Tensor

from ..cells.base import AbstractCell
from ..errors import InputValueError
from ..tape import Tape
from . import lags

__all__ = ["LagProfiles"]


class LagProfiles:
    """The part of `LayerFlow` that counts steps back from each loss."""

    norms: Tensor
    enters: Tensor
    cell: AbstractCell
    tape: Tape

    @property
    def kind(self) -> str:
        """What recurrence it is, for a reader: "LSTM"."""
        return type(self.cell).__name__

    def lag_profile(self) -> Tensor:
        """Return the typical norm at each lag, relative to lag 0: the median over losses and rows.

        Lag is the loss's step minus k. Of an even count, the median is the mean of the two middle
        values. Pairs that a reset separates do not count. NaN where no pair has that lag, or
        ``window=`` left it out.
        """
        return self._profile.clone()

    @cached_property
    def _profile(self) -> Tensor:
        return lags.median_profile(self.norms, self.enters, self.tape)

    def row_profiles(self) -> Tensor:
        """Return each batch row's own `lag_profile`, the median over losses alone: (L, B), float64.

        Example:
            >>> model = torch.nn.RNN(3, 5)
            >>> with tt.trace(model) as trace:
            ...     losses = model(torch.randn(7, 2, 3))[0].pow(2).mean((1, 2))
            >>> trace.flow(losses)["l0"].row_profiles().shape
            torch.Size([8, 2])
        """
        return lags.by_row(self.norms, self.enters, self.tape)

    def norms_by_lag(self) -> Tensor:
        """Return every pair's norm, relative to lag 0, by lag: (V, L, B), NaN where none is."""
        return lags.by_lag(self.norms, self.enters, self.tape)

    def horizon(self, fraction: float = 0.01) -> int:
        """Return the last lag at which `lag_profile` is still at or above ``fraction``.

        Under ``window=`` nothing beyond the window was measured, so the true one may be larger:
        `window_ends` says where that is.

        Raises:
            InputValueError: ``fraction`` is not above 0.
        """
        if not fraction > 0:
            raise InputValueError(f"fraction must be above 0; got {fraction}.")
        return lags.horizon(self._profile, fraction)

    @cached_property
    def window_ends(self) -> int | None:
        """The last lag that was measured, where there are longer ones; None where there are not."""
        last = lags.last_measured(self._profile)
        there = int(lags.farthest(self.norms, self.enters, self.tape).max())
        return last if last < there else None

    def horizon_text(self, fraction: float = 0.01) -> str:
        """Return `horizon` as it is shown: "7", or "≥ 5" where the window ends there."""
        horizon = self.horizon(fraction)
        return f"≥ {horizon}" if horizon == self.window_ends else str(horizon)
