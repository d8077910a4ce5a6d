"""Many losses sent back in one sweep, in plain torch: what the (t, k) flow is made of (eq. 9)."""

from __future__ import annotations

import torch
from torch import Tensor

from ...cells import AbstractCell
from ...norms import vector_norm
from ...sweep import mask
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
    way = _WayBack(cell, tape, g, enters, floors)
    return way.run(norms, deltas, adjoints)


class _WayBack:
    """The losses in the order of their entry, so that those under way at a step are neighbours."""

    def __init__(
        self,
        cell: AbstractCell,
        tape: Tape,
        g: Tensor,
        enters: Tensor | None,
        floors: Tensor | None,
    ) -> None:
        self.cell, self.tape, self.g, self.lone = cell, tape, g, enters is not None
        if enters is None:
            steps = torch.arange(1, tape.T + 1, device=g.device)
            entered = (g != 0).flatten(2).any(-1)
            self.entry = (entered * steps).amax(1)
            self.final_entry = torch.where(entered, steps, tape.T + 1).amin(1)
        else:
            self.entry = self.final_entry = enters
        self.floors = torch.zeros_like(self.entry) if floors is None else floors
        order = torch.argsort(self.entry, stable=True)
        self.back = None if bool((order[:-1] < order[1:]).all()) else torch.argsort(order)
        if self.back is not None:
            self.g = g if self.lone else g[order]
            self.entry, self.floors = self.entry[order], self.floors[order]
            self.final_entry = self.final_entry[order]

    def run(self, want_norms: bool, want_deltas: bool, want_adjoints: bool) -> Losses:
        g, tape, V, B, S = self.g, self.tape, len(self.entry), self.tape.B, self.cell.state_size
        norms = g.new_zeros(V, tape.T + 1, B) if want_norms else None
        deltas = g.new_zeros(V, tape.T + 1, B, S) if want_deltas else None
        adjoints: Tensor | None = None
        delta = g.new_zeros(V, B, S)
        done = torch.zeros(V, dtype=torch.bool, device=g.device)
        last, lowest = int(self.entry[-1]), int(self.floors.min())
        for t in range(last, max(lowest, 1) - 1, -1):
            under_way = ((self.entry >= t) & (self.floors <= t) & ~done).nonzero()
            if not len(under_way):
                continue
            rows = slice(int(under_way[0]), int(under_way[-1]) + 1)
            self._enter(delta, rows, t)
            size = vector_norm(delta[rows])
            # A loss that has underflowed to exactly 0, with nothing more to enter, is done.
            done[rows] = (size == 0).all(1) & (self.final_entry[rows] >= t)
            if norms is not None:
                norms[rows, t] = size
            if deltas is not None:
                deltas[rows, t] = delta[rows]
            delta_prev, adjoint = self.cell.vjp(tape.at(t), delta[rows])
            delta_prev, adjoint = mask(tape, t, delta[rows], delta_prev, adjoint)
            if want_adjoints:
                if adjoints is None:
                    adjoints = adjoint.new_zeros(V, tape.T, B, adjoint.shape[-1])
                adjoints[rows, t - 1] = adjoint
            delta[rows] = delta_prev
        delta.masked_fill_((self.floors > 0)[:, None, None], 0)
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

    def _enter(self, delta: Tensor, rows: slice, t: int) -> None:
        """Add what the losses send directly into step t."""
        G = self.g.shape[-1]
        if self.lone:
            here = (self.entry[rows] == t)[:, None, None]
            delta[rows, :, :G] += torch.where(here, self.g[t - 1], 0)
        else:
            delta[rows, :, :G] += self.g[rows, t - 1]

    def _no_adjoints(self) -> Tensor:
        """Return the adjoints of losses that no step is taken for: 0, as wide as the cell's."""
        V, tape, S = len(self.entry), self.tape, self.cell.state_size
        _, like = self.cell.vjp(tape.at(1), self.g.new_zeros(1, tape.B, S))
        return self.g.new_zeros(V, tape.T, tape.B, like.shape[-1])

    def _clear_below_floors(self, *found: Tensor | None) -> None:
        """Leave 0 below each loss's floor, where neighbours were taken along."""
        if not bool((self.floors > 0).any()):
            return
        for part in found:
            if part is not None:
                first = self.tape.T + 1 - part.shape[1]  # adjoints begin with step 1
                k = torch.arange(first, self.tape.T + 1, device=part.device)
                below = k < self.floors[:, None]
                part.masked_fill_(below.view(*below.shape, *(1,) * (part.dim() - 2)), 0)
