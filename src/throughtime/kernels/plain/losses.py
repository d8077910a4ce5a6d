"""Many losses sent back in one sweep, in plain torch: the basis of the (t, k) flow (eq. 9)."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import NamedTuple

import torch
from torch import Tensor

from ... import sweep
from ...cells import AbstractCell
from ...norms import vector_norm
from ...tape import Tape
from ..engine import Losses

__all__ = ["Sorted", "losses", "sorted_losses"]

# After how many steps it is asked which losses are 0; on a GPU that is a wait.
ASKED = 16


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


class Sorted(NamedTuple):
    """The losses sorted by entry, and where the CPU can look at it without waiting for a GPU.

    Attributes:
        g: direct gradients, sorted too where they have the axis V.
        entries: the last step at which each loss enters.
        entry: the same, as a tensor (V,).
        final_entry: the first such step; `losses` may end a loss that is 0 below it.
        floors: (V,) the lowest k that each loss is followed to.
        back: the order that undoes the sorting; None where they came sorted.
    """

    g: Tensor
    entries: list[int]
    entry: Tensor
    final_entry: Tensor
    floors: Tensor
    back: Tensor | None


def sorted_losses(T: int, g: Tensor, enters: Tensor | None, floors: Tensor | None) -> Sorted:
    """Return the losses sorted by entry; on a GPU this waits for it once.

    Args:
        T: how many steps there are.
        g: direct gradients (V, T, B, G); or, with ``enters``, (T, B, G).
        enters: (V,) the one step at which each loss enters, or None.
        floors: (V,) the lowest k that each loss is followed to; None: 0.
    """
    if enters is None:
        steps = torch.arange(1, T + 1, device=g.device)
        entered = (g != 0).flatten(2).any(-1)
        entry = (entered * steps).amax(1)
        final_entry = torch.where(entered, steps, T + 1).amin(1)
    else:
        entry = final_entry = enters
    floors = torch.zeros_like(entry) if floors is None else floors
    entry, final_entry, floors = entry.cpu(), final_entry.cpu(), floors.cpu()
    order = torch.argsort(entry, stable=True)
    if bool((order[:-1] < order[1:]).all()):
        return Sorted(g, entry.tolist(), entry, final_entry, floors, None)
    g = g if enters is not None else g[order.to(g.device)]
    entry, final_entry, floors = entry[order], final_entry[order], floors[order]
    return Sorted(g, entry.tolist(), entry, final_entry, floors, torch.argsort(order))


class _BackwardSweep:
    """A sweep in which the losses under way at a step are neighbours."""

    def __init__(
        self,
        cell: AbstractCell,
        tape: Tape,
        g: Tensor,
        enters: Tensor | None,
        floors: Tensor | None,
    ) -> None:
        found = sorted_losses(tape.T, g, enters, floors)
        self.cell, self.tape, self.lone = cell, tape, enters is not None
        self.g, self.entries, self.entry, self.final_entry, self.floors, self.back = found
        self.done = torch.zeros_like(self.entry, dtype=torch.bool)
        self.rows, self.some_done = slice(0), False
        self.all_to_0 = not bool((self.floors > 0).any())

    def run(self, want_norms: bool, want_deltas: bool, want_adjoints: bool) -> Losses:
        tape, V, B, S = self.tape, len(self.entry), self.tape.B, self.cell.state_size
        new = tape.s.new_zeros
        norms = new(V, tape.T + 1, B) if want_norms else None
        deltas = new(V, tape.T + 1, B, S) if want_deltas else None
        adjoints: Tensor | None = None
        last, first = int(self.entry[-1]), max(int(self.floors.min()), 1)
        way = sweep.adjoints(
            self.cell, tape, self.g, new(V, B, S), last, first, self.under_way, self._enter
        )
        delta = new(V, B, S)
        for t, delta, adjoint in way:
            if t < first:
                break
            ask = t % ASKED == 0
            size = vector_norm(delta) if ask or norms is not None else None
            if ask and size is not None:
                # A loss that has underflowed to exactly 0, with nothing more to enter, is done.
                zero = (size == 0).all(1).cpu()
                self.done[self.rows] = zero & (self.final_entry[self.rows] >= t)
                self.some_done = bool(self.done.any())
            if norms is not None and size is not None:
                norms[self.rows, t] = size
            if deltas is not None:
                deltas[self.rows, t] = delta
            if want_adjoints:
                if adjoints is None:
                    adjoints = adjoint.new_zeros(V, tape.T, B, adjoint.shape[-1])
                adjoints[self.rows, t - 1] = adjoint
        if not self.all_to_0:
            above = (self.floors > 0).to(delta.device)
            delta = delta.masked_fill(above[:, None, None], 0)
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
        back = self.back.to(delta.device)
        return Losses(*(None if part is None else part[back] for part in found))  # pyright: ignore

    def under_way(self, t: int) -> slice | None:
        """Return the losses that are between their entry and their floor at step t."""
        if self.all_to_0 and not self.some_done:
            first = bisect_left(self.entries, t)
            there = range(first, len(self.entries))
        else:
            taken = (self.entry >= t) & (self.floors <= t) & ~self.done
            there = taken.nonzero()[:, 0].tolist()
        if not there:
            return None
        self.rows = slice(there[0], there[-1] + 1)
        return self.rows

    def _enter(self, delta: Tensor, here: slice, t: int) -> None:
        """Add what enters at step t: of all losses under way, or of those whose one step it is."""
        G = self.g.shape[-1]
        if not self.lone:
            delta[..., :G] += self.g[here, t - 1]
            return
        first = max(bisect_left(self.entries, t), here.start) - here.start
        last = min(bisect_right(self.entries, t), here.stop) - here.start
        if first < last:
            delta[first:last, ..., :G] += self.g[t - 1]

    def _no_adjoints(self) -> Tensor:
        """Return the adjoints of losses that take no step: 0, as wide as the cell's."""
        V, tape, S = len(self.entry), self.tape, self.cell.state_size
        _, like = self.cell.vjp(tape.at(1), tape.s.new_zeros(1, tape.B, S))
        return like.new_zeros(V, tape.T, tape.B, like.shape[-1])

    def _clear_below_floors(self, *found: Tensor | None) -> None:
        """Set to 0 what lies below each loss's floor, where it went along with its neighbours."""
        if self.all_to_0:
            return
        for part in found:
            if part is not None:
                first = self.tape.T + 1 - part.shape[1]  # adjoints begin with step 1
                k = torch.arange(first, self.tape.T + 1, device=part.device)
                below = k < self.floors.to(part.device)[:, None]
                part.masked_fill_(below.view(*below.shape, *(1,) * (part.dim() - 2)), 0)
