"""A cell's compiled sweeps, with everything prepared that all calls share.

`throughtime.kernels.engine.Prepared` says what they are for.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...cells import AbstractCell
from ...tape import by_run
from ...torch_state import is_faked
from ..by_row import COLLECTORS
from ..chosen import Choice, is_allowed, note
from ..engine import Prepared, states
from . import library
from .arguments import Arguments, side_by_side
from .run import Widths, make_room, run_gradients

__all__ = ["PreparedSweeps", "Taken"]

_copy = library.Sweep.from_buffer_copy
_LIMIT = 2**31 - 1  # of what the sweeps count in 32 bits
_TAKEN = 2  # only the steps that rows take are written to what is kept


class Taken(NamedTuple):
    """A forward sweep's results.

    Attributes:
        h: (T, B, H), 0 where a row takes no step.
        finals: the final state by the cell's ``parts``, each (1, B, ·).
        kept: what the backward pass needs beside x and the weights: s (T+1, B, S) and the
            cell's own, for the steps that rows take; elsewhere they are uninitialised.
        shared: whether ``h`` shares memory with s.
        sweep: the arguments, for the backward pass.
    """

    h: Tensor
    finals: tuple[Tensor, ...]
    kept: tuple[Tensor, ...]
    shared: bool
    sweep: library.Sweep


class PreparedSweeps(Prepared):
    """The sweeps of one cell over weights that stay where they are."""

    def __init__(self, cell: AbstractCell, number: int, choice: Choice) -> None:
        """Check the weights and note where they are, once.

        Args:
            cell: the recurrence, with contiguous weights.
            number: of its compiled kernel.
            choice: what `kernels.last_choice` says after a call.
        """
        self.cell, self.choice = cell, choice
        self.widths = Widths.of(cell)
        self.names, self.weights = zip(*cell.weights().items(), strict=True)
        self.noted = [(w, w.data_ptr(), w.shape) for w in self.weights]
        self.dtype = self.weights[0].dtype
        # bytes: every call fills in a copy of its own, which makes it safe in threads.
        self.sweep = bytes(Arguments(cell, number, 1, 1, None, None, None, back=False).sweep)

    def holds(self, weights: Sequence[Tensor | None]) -> bool:
        """Check whether these are the weights, in the same memory and of the same kind."""
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
        """Check whether ``x``, of three axes, is as ordinary as the sweep needs it."""
        T, B, I = x.shape
        if I != self.widths.I or not (0 < T < _LIMIT and 0 < B < _LIMIT):
            return False
        return is_ordinary(x, self.dtype) and not is_faked(x)

    def lengths(self, lengths: object, x: Tensor) -> ctypes.Array[ctypes.c_int32] | None:
        """Return how many steps each row of ``x`` takes, or None if that is unusual."""
        if isinstance(lengths, Tensor):
            lengths = lengths.tolist() if lengths.is_cpu and lengths.dim() == 1 else ()
        T, B = x.shape[:2]
        if not isinstance(lengths, (list, tuple)) or len(lengths) != B:
            return None
        clear = set(map(type, lengths)) == {int} and min(lengths) >= 1 and max(lengths) <= T
        return (ctypes.c_int32 * B)(*lengths) if clear else None

    def begin(self, parts: tuple[Tensor, ...], x: Tensor, runs: int) -> list[Tensor] | None:
        """Return s_0 (B, S) of each run from its parts, each (runs, B, ·); None if unusual.

        Args:
            parts: of the initial states.
            x: inputs (T, B, I).
            runs: how many layers and directions there are, with states as this one's.
        """
        dtype, B, widths = self.dtype, x.shape[1], self.widths.parts
        if len(parts) != len(widths):
            return None
        for part, width in zip(parts, widths, strict=True):
            if part.shape != (runs, B, width) or part.dtype is not dtype or not part.is_cpu:
                return None
        starts = [s_0.contiguous() for s_0 in by_run(parts)]
        return starts if all(map(library.address, starts)) and not is_faked(starts[0]) else None

    def takes_reset(self, reset: Tensor, x: Tensor) -> bool:
        """Check whether ``reset`` is an ordinary mask (T, B)."""
        return ordinary(reset, x.shape[:2], torch.bool) and reset.is_contiguous()

    def forward(
        self,
        x: Tensor,
        s_0: Tensor | None = None,
        lengths: ctypes.Array[ctypes.c_int32] | None = None,
        reset: Tensor | None = None,
        *,
        keep: bool,
    ) -> Taken:
        """Run the recurrence over an input that it `takes` (eq. 1).

        Args:
            x: inputs (T, B, I).
            s_0: the initial state (B, S), as `begin` returns it; None: zeros.
            lengths: (B,) how many steps each row takes; None: all T.
            reset: (T, B) bool, which it takes; or None.
            keep: whether the backward pass will be taken.

        Cost:
            as `throughtime.kernels.outputs`.
        """
        T, B, _ = x.shape
        widths = self.widths
        sweep = _copy(self.sweep)
        sweep.T, sweep.B, sweep.keep = T, B, _TAKEN if keep else 0
        sweep.x, (sweep.x_stride_t, sweep.x_stride_b, _) = x.data_ptr(), x.stride()
        if s_0 is not None:
            sweep.s_0 = s_0.data_ptr()
        if lengths is not None:
            sweep.last = ctypes.addressof(lengths)
        if reset is not None:
            sweep.reset = reset.data_ptr()
        finals, kept = make_room(sweep, widths, x)
        shared = keep and lengths is None and widths.S == widths.H
        if shared:
            h = states(kept[0])
        else:
            h = library.empty(x, T, B, widths.H)
            sweep.h = h.data_ptr()
        library.run_sweep(sweep, back=False)
        note(self.choice)
        return Taken(h, finals, kept, shared, sweep)

    def back(
        self,
        done: library.Sweep,
        saved: Sequence[Tensor],
        reset: Tensor | None,
        g: Tensor | None,
        delta_T: Tensor | None,
        needs: Sequence[bool],
    ) -> list[Tensor | None] | None:
        """Send one loss back (eq. 9, 5), or return None where something is unusual.

        Args:
            done: the arguments of the forward sweep.
            saved: x, the weights and what was kept, as autograd returns them.
            reset: that of the forward sweep, as autograd returns it.
            g: direct gradients (T, B, H); None: nowhere.
            delta_T: what else arrives at s_T, (B, S); None: nothing.
            needs: whether the gradient of x, of s_0 and of each weight is wanted.

        Returns:
            The gradients of x (T, B, I), s_0 (B, S) and each weight, or None for each that is not
            wanted.

        Cost:
            as `throughtime.kernels.gradients`.
        """
        n = len(self.weights) + 1
        x, *kept = saved[0], *saved[n:]
        H, S = self.widths.H, self.widths.S
        if not is_allowed(self.choice.name) or COLLECTORS or not self.holds(saved[1:n]):
            return None
        # A hook on saved tensors may have replaced them.
        where = [done.x, done.s, *done.kept][: len(kept) + 1]
        if [tensor.data_ptr() for tensor in (x, *kept)] != where:
            return None
        if library.pointer(reset) != done.reset:
            return None
        sweep = _copy(done)
        if g is not None:
            if not ordinary(g, (done.T, done.B, H), self.dtype):
                return None
            g = side_by_side(g)  # the gradient of a sum has stride 0 everywhere
            sweep.g, sweep.G, (sweep.g_stride_t, sweep.g_stride_b, _) = g.data_ptr(), H, g.stride()
        if delta_T is not None:
            if not ordinary(delta_T, (done.B, S), self.dtype):
                return None
            delta_T = delta_T.contiguous()
            sweep.delta_T = delta_T.data_ptr()
        weights = {
            name: w for name, w, need in zip(self.names, saved[1:n], needs[2:], strict=True) if need
        }
        found = run_gradients(sweep, self.cell, x, weights, needs[0])
        note(self.choice)
        return [found.x, found.s_0 if needs[1] else None, *map(found.weights.get, self.names)]


def ordinary(tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> bool:
    """Check whether this is an ordinary tensor in memory, of this shape and dtype."""
    if type(tensor) is not Tensor or tensor.dtype is not dtype or tensor.shape != shape:
        return False
    return bool(library.address(tensor)) and not is_faked(tensor)


def is_ordinary(x: Tensor, dtype: torch.dtype) -> bool:
    """Check whether this is an ordinary tensor in memory, with its last axis contiguous."""
    if type(x) is not Tensor or x.dtype is not dtype or not library.address(x):
        return False
    return x.is_contiguous() or x.stride(-1) == 1 or x.shape[-1] == 1
