"""A cell's compiled sweeps with all settled beforehand that is the same in every call.

A short sweep takes less time than asking whether it can be taken. So the answer is kept, with the
arguments that go with it, and a call asks only whether the weights are where they were and what
came in is as plain as can be. Whatever else comes gets None, and takes the way of
`throughtime.kernels.outputs` and `throughtime.kernels.gradients`, which say what is wrong.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..cells import AbstractCell
from . import native
from .by_row import COLLECTORS
from .choose import address, is_faked, is_reference_wanted, number_of, ran_natively
from .outputs import states
from .steps import Arguments
from .sweeps import make_room, size_obstacle
from .train import run_back

__all__ = ["Prepared", "Taken", "filled", "prepare"]

_copy = native.Sweep.from_buffer_copy
_TAKEN = 2  # of what is kept, only the steps that rows take are written


class Taken(NamedTuple):
    """A sweep that was taken.

    Attributes:
        h: (T, B, H), 0 where a row takes no step.
        finals: the final state by the cell's ``parts``, each (1, B, ·).
        kept: what the way back needs beside x and the weights: s (T+1, B, S) and the cell's own,
            of the steps that rows take; the others hold anything.
        shared: whether ``h`` is in the memory of s.
        sweep: the arguments, for the way back.
    """

    h: Tensor
    finals: tuple[Tensor, ...]
    kept: tuple[Tensor, ...]
    shared: bool
    sweep: native.Sweep


class Prepared:
    """The sweeps of one cell over weights that stay where they are."""

    def __init__(self, cell: AbstractCell, number: int) -> None:
        """Check the weights and note where they are, once.

        Args:
            cell: the recurrence, with contiguous weights.
            number: of its compiled kernel.
        """
        self.cell = cell
        self.names, self.weights = zip(*cell.weights().items(), strict=True)
        self.noted = [(w, w.data_ptr(), w.shape) for w in self.weights]
        self.dtype = self.weights[0].dtype
        # bytes: every call fills in a copy, so that threads do not meet in one.
        self.sweep = bytes(Arguments(cell, number, 1, 1, None, None, None, back=False).sweep)

    def holds(self, weights: Sequence[Tensor | None]) -> bool:
        """Say whether these are the weights, in the memory and of the kind they were of."""
        dtype = self.dtype
        if len(weights) != len(self.noted):
            return False
        for weight, (own, at, shape) in zip(weights, self.noted, strict=True):
            if weight is not own or own.data_ptr() != at or own.dtype is not dtype:
                return False
            if own.shape != shape or not own.is_contiguous():
                return False
        return True

    def takes(self, x: Tensor) -> bool:
        """Say whether ``x`` is (T, B, I) and as plain as the sweep needs it."""
        if is_reference_wanted() or x.dim() != 3:
            return False
        T, B, I = x.shape
        sized = self.cell.input_size == I and not size_obstacle(T, B)
        return sized and plain(x, self.dtype) != 0 and not is_faked(x)

    def forward(
        self, x: Tensor, last: ctypes.Array[ctypes.c_int32] | None = None, *, keep: bool
    ) -> Taken:
        """Run the recurrence from s_0 = 0 over an input that it `takes` (eq. 1).

        Args:
            x: inputs (T, B, I).
            last: (B,) how many steps each row takes; None: all T.
            keep: whether the way back will be taken.

        Cost:
            as `throughtime.kernels.outputs`.
        """
        T, B, _ = x.shape
        H = self.cell.hidden_size
        sweep = _copy(self.sweep)
        sweep.T, sweep.B, sweep.keep = T, B, _TAKEN if keep else 0
        sweep.x, (sweep.x_stride_t, sweep.x_stride_b, _) = x.data_ptr(), x.stride()
        if last is not None:
            sweep.last = ctypes.addressof(last)
        finals, kept = make_room(sweep, self.cell, x)
        shared = keep and last is None and self.cell.state_size == H
        if shared:
            h = states(kept[0])
        else:
            h = native.empty(x, T, B, H)
            sweep.h = h.data_ptr()
        native.run(sweep, back=False)
        ran_natively(self.cell)
        return Taken(h, finals, kept, shared, sweep)

    def back(
        self,
        taken: native.Sweep,
        saved: Sequence[Tensor],
        g: Tensor,
        needs: Sequence[bool],
    ) -> list[Tensor | None] | None:
        """Send one loss back (eq. 9, 5), or give None where something is unusual.

        Args:
            taken: the arguments of the way forward.
            saved: x, the weights and what was kept, as autograd gives them back.
            g: direct gradients (T, B, H).
            needs: whether the gradient of x and of each weight is wanted.

        Returns:
            The gradients of x (T, B, I) and of each weight, or None for each that is not wanted.

        Cost:
            as `throughtime.kernels.gradients`.
        """
        n = len(self.weights) + 1
        x, *kept = saved[0], *saved[n:]
        H = self.cell.hidden_size
        if COLLECTORS or is_reference_wanted() or is_faked(g) or not self.holds(saved[1:n]):
            return None
        # A hook on saved tensors may have given others.
        where = [taken.x, taken.s, *taken.kept][: len(kept) + 1]
        if [tensor.data_ptr() for tensor in (x, *kept)] != where:
            return None
        at = plain(g, self.dtype) if g.shape == (taken.T, taken.B, H) else 0
        if not at:
            return None
        sweep = _copy(taken)
        sweep.g, sweep.G, (sweep.g_stride_t, sweep.g_stride_b, _) = at, H, g.stride()
        weights = {
            name: w for name, w, need in zip(self.names, saved[1:n], needs[1:], strict=True) if need
        }
        found = run_back(sweep, self.cell, x, weights, needs[0])
        ran_natively(self.cell)
        return [found.x, *map(found.weights.get, self.names)]


def filled(kept: Sequence[Tensor], active: Tensor) -> list[Tensor]:
    """Give what was kept with the steps that rows do not take as `outputs` would have left them.

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


def prepare(cell: AbstractCell) -> Prepared | None:
    """Settle beforehand what a cell's compiled sweeps need, or give None where it has none."""
    number = number_of(cell)
    weights = cell.weights().values()
    if number is None or not all(weight.is_contiguous() for weight in weights):
        return None
    return Prepared(cell, number)


def plain(x: Tensor, dtype: torch.dtype) -> int:
    """Give the address of an ordinary tensor with its last axis contiguous; of any other 0."""
    if type(x) is not Tensor or x.dtype is not dtype:
        return 0
    at = address(x)
    return at if at and (x.stride(-1) == 1 or x.shape[-1] == 1) else 0
