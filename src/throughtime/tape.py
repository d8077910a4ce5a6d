"""What the forward sweep keeps for the backward pass, and what that pass returns to a layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .cells.base import AbstractCell

__all__ = ["Gradients", "Tape", "bare", "by_run", "complete", "filled", "joined", "split", "taken"]


@dataclass(frozen=True)
class Tape:
    """Inputs, states and saved values of T steps of one cell.

    Attributes:
        x: inputs (T, B, I); ``x[t-1]`` belongs to step t.
        s: states (T+1, B, S); ``s[0]`` is the initial state, ``s[t]`` the one after step t.
        saved: what the cell's ``step`` saved, each (T, B, ·).
        active: (T, B) bool, False where a row takes no step and keeps its state; None: nowhere.
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

    @property
    def holds_graph(self) -> bool:
        """Whether ``saved`` is a graph of torch's own, and ``s`` the first state alone.

        It is then (1, 1, B, S), and all but the engine that left it compute the others anew.
        """
        return self.s.dim() == 4

    def at(self, t: int) -> tuple[Tensor, ...]:
        """Return what step t (1 to T) saved."""
        return tuple(kept[t - 1] for kept in self.saved)

    def s_prev(self) -> Tensor:
        """Return the state that each step began from, (T, B, S): s_{t-1}, or 0 after a reset."""
        if self.reset is None:
            return self.s[:-1]
        return self.s[:-1].masked_fill(self.reset[..., None], 0)

    def steps(self, first: int, last: int) -> Tape:
        """Return the tape of steps ``first`` to ``last`` only, without copying."""
        window = slice(first - 1, last)
        return Tape(
            self.x[window],
            self.s[first - 1 : last + 1],
            tuple(kept[window] for kept in self.saved),
            None if self.active is None else self.active[window],
            None if self.reset is None else self.reset[window],
        )

    def of_rows(self, rows: Sequence[int]) -> Tape:
        """Return the tape of some batch rows only, in this order; a copy."""
        at = torch.tensor(list(rows), dtype=torch.long, device=self.s.device)
        return Tape(
            self.x[:, at],
            self.s[:, at],
            tuple(kept[:, at] for kept in self.saved),
            None if self.active is None else self.active[:, at],
            None if self.reset is None else self.reset[:, at],
        )

    def rows(self, first: int, last: int) -> Tape:
        """Return the tape of batch rows ``first`` to ``last`` − 1 only, without copying."""
        window = slice(first, last)
        return Tape(
            self.x[:, window],
            self.s[:, window],
            tuple(kept[:, window] for kept in self.saved),
            None if self.active is None else self.active[:, window],
            None if self.reset is None else self.reset[:, window],
        )


class Gradients(NamedTuple):
    """The gradients that a training step needs.

    Attributes:
        weights: dE/dW by the names of ``cell.weights()``; only the wanted ones.
        x: dE/dx (T, B, I), or None.
        s_0: dE/ds_0 (B, S).
    """

    weights: dict[str, Tensor]
    x: Tensor | None
    s_0: Tensor


def bare(cell: AbstractCell, tape: Tape) -> Tape:
    """Return the tape without what `complete` can restore."""
    widths = cell.kept_widths()
    own = len(tape.saved) if widths is None else len(widths)
    return Tape(tape.x, tape.s, tape.saved[:own], tape.active, tape.reset)


def complete(cell: AbstractCell, tape: Tape) -> Tape:
    """Return a tape, which may be bare, as `sweep.forward` would have kept it."""
    widths = cell.kept_widths()
    told = widths is not None and len(tape.saved) == len(widths)
    saved = cell.with_states(tape) if told else tape.saved
    return Tape(taken(tape.x, tape.active), tape.s, saved, tape.active, tape.reset)


def taken(rows: Tensor, active: Tensor | None) -> Tensor:
    """Return rows (T, B, ·) with 0 where no step is taken: a NaN there must not spread as 0·NaN."""
    return rows if active is None else rows.masked_fill(~active[..., None], 0)


def split(s_T: Tensor, widths: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Return a final state (B, S) by its parts, (1, B, ·) each with memory of its own."""
    parts = s_T.unsqueeze(0).split(widths, -1)
    return tuple(part.clone(memory_format=torch.contiguous_format) for part in parts)


def filled(kept: Sequence[Tensor], active: Tensor) -> list[Tensor]:
    """Return what was kept, with the steps that rows do not take filled as by `Engine.outputs`.

    Args:
        kept: s (T+1, B, S), and the cell's own (T, B, ·), of rows that begin at the first step.
        active: (T, B) bool.
    """
    s, *own = kept
    T, B = active.shape
    final = s[active.sum(0), torch.arange(B, device=s.device)]
    takes = active[..., None]
    s = torch.cat((s[:1], torch.where(takes, s[1:], final.expand(T, -1, -1))))
    return [s, *(torch.where(takes, part, 0) for part in own)]


def by_run(parts: tuple[Tensor, ...]) -> list[Tensor]:
    """Return the state (B, S) of each layer and direction, from the parts (runs, B, ·)."""
    return list((parts[0] if len(parts) == 1 else torch.cat(parts, -1)).unbind(0))


def joined(finals: tuple[Tensor, ...]) -> Tensor:
    """Return a final state (B, S) from its parts (1, B, ·)."""
    return (finals[0] if len(finals) == 1 else torch.cat(finals, -1)).squeeze(0)
