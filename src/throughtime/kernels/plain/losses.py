"""Many losses sent back in one sweep, in plain torch: the basis of the (t, k) flow (eq. 9)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ... import sweep
from ...cells import AbstractCell
from ...norms import vector_norm
from ...tape import Tape
from ..engine import Losses

__all__ = ["losses"]


def losses(
    cell: AbstractCell,
    tape: Tape,
    g: Tensor,
    enters: Tensor | None,
    floors: Tensor | None,
    *,
    norms: bool,
    deltas: bool,
    adjoints: bool,
) -> Losses:
    """Send V losses back, each only over the steps between its entry and its floor (eq. 9).

    Args:
        cell: the recurrence.
        tape: what its forward sweep kept.
        g: direct gradients (V, T, B, G); or, with ``enters``, (T, B, G).
        enters: (V,) the one step from 1 to T at which each loss enters, with ``g`` of that step;
            0 for a loss that does not.
        floors: (V,) the lowest k that each loss is followed to; None: 0.
        norms: whether ‖∂E_v/∂s_k‖₂ is wanted.
        deltas: whether ∂E_v/∂s_k is wanted.
        adjoints: whether the adjoints are wanted.

    Cost:
        Σ_v (entry − floor) steps of B rows; memory V·B·S, and what is asked for.
    """
    return _BackwardSweep(cell, tape, g, enters, floors).run(norms, deltas, adjoints)


class _EachAtItsStep:
    """Direct gradients (T, B, G), each loss having only its own step's; indexed like g."""

    def __init__(self, g: Tensor, entry: Tensor) -> None:
        self.g, self.entry, self.shape = g, entry, g.shape

    def __getitem__(self, at: tuple[slice, int]) -> Tensor:
        rows, k = at
        return torch.where((self.entry[rows] == k + 1)[:, None, None], self.g[k], 0)


class _BackwardSweep:
    """The losses sorted by entry, so that those under way at a step are neighbours."""

    def __init__(
        self,
        cell: AbstractCell,
        tape: Tape,
        g: Tensor,
        enters: Tensor | None,
        floors: Tensor | None,
    ) -> None:
        self.cell, self.tape, self.lone = cell, tape, enters is not None
        self.g: Any = g
        if enters is None:
            steps = torch.arange(1, tape.T + 1, device=g.device)
            entered = (g != 0).flatten(2).any(-1)
            self.entry = (entered * steps).amax(1)
            self.final_entry = torch.where(entered, steps, tape.T + 1).amin(1)
        else:
            self.entry = self.final_entry = enters
        self.floors = torch.zeros_like(self.entry) if floors is None else floors
        self.done = torch.zeros_like(self.entry, dtype=torch.bool)
        self.rows = slice(0)
        order = torch.argsort(self.entry, stable=True)
        self.back = None if bool((order[:-1] < order[1:]).all()) else torch.argsort(order)
        if self.back is not None:
            self.g = g if self.lone else g[order]
            self.entry, self.floors = self.entry[order], self.floors[order]
            self.final_entry = self.final_entry[order]
        if self.lone:
            self.g = _EachAtItsStep(g, self.entry)

    def run(self, want_norms: bool, want_deltas: bool, want_adjoints: bool) -> Losses:
        g, tape, V, B, S = self.g, self.tape, len(self.entry), self.tape.B, self.cell.state_size
        new = tape.s.new_zeros
        norms = new(V, tape.T + 1, B) if want_norms else None
        deltas = new(V, tape.T + 1, B, S) if want_deltas else None
        adjoints: Tensor | None = None
        last, first = int(self.entry[-1]), max(int(self.floors.min()), 1)
        way = sweep.adjoints(self.cell, tape, g, new(V, B, S), last, first, self.under_way)
        delta = new(V, B, S)
        for t, delta, adjoint in way:
            if t < first:
                break
            size = vector_norm(delta)
            # A loss that has underflowed to exactly 0, with nothing more to enter, is done.
            self.done[self.rows] = (size == 0).all(1) & (self.final_entry[self.rows] >= t)
            if norms is not None:
                norms[self.rows, t] = size
            if deltas is not None:
                deltas[self.rows, t] = delta
            if want_adjoints:
                if adjoints is None:
                    adjoints = adjoint.new_zeros(V, tape.T, B, adjoint.shape[-1])
                adjoints[self.rows, t - 1] = adjoint
        delta = delta.masked_fill((self.floors > 0)[:, None, None], 0)
        if want_adjoints and adjoints is None:
            adjoints = self._no_adjoints()
        if norms is not None:
            norms[:, 0] = vector_norm(delta)
        if deltas is not None:
            deltas[:, 0] = delta
        self._clear_below_floors(norms, deltas, adjoints)
        found = Losses(norms, deltas, adjoints, delta)
        if self.back is None:
            return found
        return Losses(*(None if part is None else part[self.back] for part in found))  # pyright: ignore

    def under_way(self, t: int) -> slice | None:
        """Return the losses that are between their entry and their floor at step t."""
        there = ((self.entry >= t) & (self.floors <= t) & ~self.done).nonzero()
        if not len(there):
            return None
        self.rows = slice(int(there[0]), int(there[-1]) + 1)
        return self.rows

    def _no_adjoints(self) -> Tensor:
        """Return the adjoints of losses that take no step: 0, as wide as the cell's."""
        V, tape, S = len(self.entry), self.tape, self.cell.state_size
        _, like = self.cell.vjp(tape.at(1), tape.s.new_zeros(1, tape.B, S))
        return like.new_zeros(V, tape.T, tape.B, like.shape[-1])

    def _clear_below_floors(self, *found: Tensor | None) -> None:
        """Set to 0 what lies below each loss's floor, where it went along with its neighbours."""
        if not bool((self.floors > 0).any()):
            return
        for part in found:
            if part is not None:
                first = self.tape.T + 1 - part.shape[1]  # adjoints begin with step 1
                k = torch.arange(first, self.tape.T + 1, device=part.device)
                below = k < self.floors[:, None]
                part.masked_fill_(below.view(*below.shape, *(1,) * (part.dim() - 2)), 0)
