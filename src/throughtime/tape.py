"""What the forward sweep keeps for the way back."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["Tape"]


@dataclass(frozen=True)
class Tape:
    """Inputs, states and saved values of T steps of one cell.

    Attributes:
        x: inputs (T, B, I); ``x[t-1]`` belongs to step t.
        s: states (T+1, B, S); ``s[0]`` is the initial one, ``s[t]`` the state after step t.
        saved: what the cell's ``step`` put aside, each (T, B, ·).
        active: (T, B) bool, False where a row takes no step and keeps its state; None: all take it.
        reset: (T, B) bool, True where the state was zeroed before the step; None: nowhere.
    """

    x: Tensor
    s: Tensor
    saved: tuple[Tensor, ...]
    active: Tensor | None = None
    reset: Tensor | None = None

    @property
    def T(self) -> int:
        """How many steps there are."""
        return self.s.shape[0] - 1

    @property
    def B(self) -> int:
        """How many batch rows there are."""
        return self.s.shape[1]

    def at(self, t: int) -> tuple[Tensor, ...]:
        """Give what step t (1 to T) put aside."""
        return tuple(kept[t - 1] for kept in self.saved)

    def s_prev(self) -> Tensor:
        """Give the state that each step began from, (T, B, S): s_{t-1}, or 0 after a reset."""
        if self.reset is None:
            return self.s[:-1]
        return self.s[:-1].masked_fill(self.reset[..., None], 0)

    def steps(self, first: int, last: int) -> Tape:
        """Give the tape of the steps ``first`` to ``last`` alone, without copying."""
        window = slice(first - 1, last)
        return Tape(
            self.x[window],
            self.s[first - 1 : last + 1],
            tuple(kept[window] for kept in self.saved),
            None if self.active is None else self.active[window],
            None if self.reset is None else self.reset[window],
        )

    def rows(self, first: int, last: int) -> Tape:
        """Give the tape of the batch rows ``first`` to ``last`` − 1 alone, without copying."""
        window = slice(first, last)
        return Tape(
            self.x[:, window],
            self.s[:, window],
            tuple(kept[:, window] for kept in self.saved),
            None if self.active is None else self.active[:, window],
            None if self.reset is None else self.reset[:, window],
        )
