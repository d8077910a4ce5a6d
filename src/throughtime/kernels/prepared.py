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
from .choose import compiled_number, is_faked, is_reference_wanted, ran_natively
from .outputs import states
from .steps import Arguments

__all__ = ["Prepared", "Taken", "filled", "prepare"]

_LIMIT = 2**31 - 1  # rows and steps are counted in 32 bits
_copy = native.Sweep.from_buffer_copy
_TAKEN = 2  # of what is kept, only the steps that rows take are written
_GRADS = ("grad_weight_ih", "grad_weight_hh", "grad_bias_ih", "grad_bias_hh")


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
        self.cell, self.number = cell, number
        self.weights = tuple(cell.weights().values())
        self.noted = [(w, w.data_ptr(), w.shape) for w in self.weights]
        self.dtype = self.weights[0].dtype
        self.sizes = (cell.input_size, cell.hidden_size, cell.state_size, cell.preact_size)
        # bytes: every call fills in a copy, so that threads do not meet in one.
        self.sweep = bytes(Arguments(cell, number, 1, 1, None, None, None, back=False).sweep)

    def holds(self, weights: Sequence[Tensor | None]) -> bool:
        """Say whether these are the weights, in the memory and of the kind they were of."""
        dtype = self.dtype
        if len(weights) != len(self.noted):
            return False
        for weight, (own, address, shape) in zip(weights, self.noted, strict=True):
            if weight is not own or own.data_ptr() != address or own.dtype is not dtype:
                return False
            if own.shape != shape or not own.is_contiguous():
                return False
        return True

    def takes(self, x: Tensor) -> bool:
        """Say whether ``x`` is (T, B, I) and as plain as the sweep needs it."""
        if is_reference_wanted() or x.dim() != 3:
            return False
        T, B, I = x.shape
        sized = self.sizes[0] == I and 0 < T < _LIMIT and 0 < B <= _LIMIT
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
        _, H, S, _ = self.sizes
        sweep = _copy(self.sweep)
        sweep.T, sweep.B, sweep.keep = T, B, _TAKEN if keep else 0
        sweep.x, (sweep.x_stride_t, sweep.x_stride_b, _) = x.data_ptr(), x.stride()
        if last is not None:
            sweep.last = ctypes.addressof(last)
        kept = self._tape(sweep, x)
        shared = keep and last is None and S == H
        if shared:
            h = states(kept[0])
        else:
            h = native.empty(x, T, B, H)
            sweep.h = h.data_ptr()
        finals = (x.new_empty(1, B, H),)
        sweep.h_T = finals[0].data_ptr()
        if S > H:
            finals = (*finals, x.new_empty(1, B, H))
            sweep.c_T = finals[1].data_ptr()
        native.run(sweep, back=False)
        ran_natively(self.cell)
        return Taken(h, finals, kept, shared, sweep)

    def _tape(self, sweep: native.Sweep, x: Tensor) -> tuple[Tensor, ...]:
        """Give s, and what the cell puts aside beside it, to be written; nothing without keep."""
        if not sweep.keep:
            return ()
        _, H, S, A = self.sizes
        s = native.empty(x, sweep.T + 1, sweep.B, S)
        sweep.s = s.data_ptr()
        if self.number == 0:
            return (s,)
        a = native.empty(x, sweep.T, sweep.B, A)
        sweep.a = a.data_ptr()
        if self.number == 1:
            return s, a
        q = native.empty(x, sweep.T, sweep.B, H)
        sweep.q = q.data_ptr()
        return s, a, q

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
        H = self.sizes[1]
        if COLLECTORS or is_reference_wanted() or is_faked(g) or not self.holds(saved[1:n]):
            return None
        # A hook on saved tensors may have given others.
        where = [taken.x, taken.s, taken.a, taken.q][: len(kept) + 1]
        if [tensor.data_ptr() for tensor in (x, *kept)] != where:
            return None
        at = plain(g, self.dtype) if g.shape == (taken.T, taken.B, H) else 0
        if not at:
            return None
        sweep = _copy(taken)
        sweep.g, sweep.G, (sweep.g_stride_t, sweep.g_stride_b, _) = at, H, g.stride()
        found: list[Tensor | None] = [None] * n
        if needs[0]:
            found[0] = native.empty(x, *x.shape)
            sweep.grad_x = found[0].data_ptr()
        for i, name in enumerate(_GRADS[: n - 1], 1):
            if needs[i]:
                found[i] = grad = x.new_empty(saved[i].shape)
                setattr(sweep, name, grad.data_ptr())
        delta_0 = x.new_empty(kept[0].shape[1:])
        sweep.grads, sweep.delta_0 = 1, delta_0.data_ptr()
        native.run(sweep, back=True)
        ran_natively(self.cell)
        return found


def filled(kept: Sequence[Tensor], active: Tensor) -> list[Tensor]:
    """Give what was kept with the steps that rows do not take as `outputs` would have left them.

    Args:
        kept: s (T+1, B, S), and the cell's own (T, B, ·), of rows that begin at the first step.
        active: (T, B) bool.
    """
    s, *own = kept
    T, B = active.shape
    final = s[active.sum(0), torch.arange(B)]
    takes = active[..., None]
    s = torch.cat((s[:1], torch.where(takes, s[1:], final.expand(T, -1, -1))))
    return [s, *(torch.where(takes, part, 0) for part in own)]


def prepare(cell: AbstractCell) -> Prepared | None:
    """Settle beforehand what a cell's compiled sweeps need, or give None where it has none."""
    number = compiled_number(cell)
    weights = cell.weights().values()
    if number is None or not all(weight.is_contiguous() for weight in weights):
        return None
    return Prepared(cell, number)


def plain(x: Tensor, dtype: torch.dtype) -> int:
    """Give the address of an ordinary tensor with its last axis contiguous; of any other 0."""
    if type(x) is not Tensor or x.dtype is not dtype or not x.is_cpu:
        return 0
    if x.layout is not torch.strided or x.is_neg():
        return 0
    if x.stride(-1) != 1 and x.shape[-1] != 1:
        return 0
    try:
        return x.data_ptr()
    except RuntimeError:  # vmap hides a batch behind it
        return 0
