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
from ...torch_state import is_faked
from ..by_row import COLLECTORS
from ..chosen import is_allowed, note
from ..engine import Engine, states
from . import library
from .arguments import Arguments, side_by_side
from .run import make_room, run_gradients

__all__ = ["PreparedSweeps", "Taken"]

_copy = library.Sweep.from_buffer_copy
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


class PreparedSweeps:
    """The sweeps of one cell over weights that stay where they are."""

    def __init__(self, cell: AbstractCell, number: int, engine: Engine) -> None:
        """Check the weights and note where they are, once.

        Args:
            cell: the recurrence, with contiguous weights.
            number: of its compiled kernel.
            engine: whose sweeps these are.
        """
        self.cell, self.engine = cell, engine
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
        """Check whether ``x`` is (T, B, I) and as ordinary as the sweep needs it."""
        if not is_allowed(self.engine.name) or x.dim() != 3 or x.shape[2] != self.cell.input_size:
            return False
        T, B = x.shape[:2]
        sized = min(T, B) > 0 and max(T, B) < 2**31 - 1
        return sized and plain(x, self.dtype) and not is_faked(x)

    def lengths(self, lengths: object, x: Tensor) -> ctypes.Array[ctypes.c_int32] | None:
        """Return how many steps each row of ``x`` takes, or None if that is unusual."""
        if isinstance(lengths, Tensor):
            lengths = lengths.tolist() if lengths.is_cpu and lengths.dim() == 1 else ()
        T, B = x.shape[:2]
        if not isinstance(lengths, (list, tuple)) or len(lengths) != B:
            return None
        clear = set(map(type, lengths)) == {int} and min(lengths) >= 1 and max(lengths) <= T
        return (ctypes.c_int32 * B)(*lengths) if clear else None

    def forward(
        self, x: Tensor, lengths: ctypes.Array[ctypes.c_int32] | None = None, *, keep: bool
    ) -> Taken:
        """Run the recurrence from s_0 = 0 over an input that it `takes` (eq. 1).

        Args:
            x: inputs (T, B, I).
            lengths: (B,) how many steps each row takes; None: all T.
            keep: whether the backward pass will be taken.

        Cost:
            as `throughtime.kernels.outputs`.
        """
        T, B, _ = x.shape
        H = self.cell.hidden_size
        sweep = _copy(self.sweep)
        sweep.T, sweep.B, sweep.keep = T, B, _TAKEN if keep else 0
        sweep.x, (sweep.x_stride_t, sweep.x_stride_b, _) = x.data_ptr(), x.stride()
        if lengths is not None:
            sweep.last = ctypes.addressof(lengths)
        finals, kept = make_room(sweep, self.cell, x)
        shared = keep and lengths is None and self.cell.state_size == H
        if shared:
            h = states(kept[0])
        else:
            h = library.empty(x, T, B, H)
            sweep.h = h.data_ptr()
        library.run(sweep, back=False)
        note(self.engine.chosen(self.cell))
        return Taken(h, finals, kept, shared, sweep)

    def back(
        self,
        done: library.Sweep,
        saved: Sequence[Tensor],
        g: Tensor,
        needs: Sequence[bool],
    ) -> list[Tensor | None] | None:
        """Send one loss back (eq. 9, 5), or return None where something is unusual.

        Args:
            done: the arguments of the forward sweep.
            saved: x, the weights and what was kept, as autograd returns them.
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
        allowed = is_allowed(self.engine.name) and not COLLECTORS
        if not allowed or is_faked(g) or not self.holds(saved[1:n]):
            return None
        # A hook on saved tensors may have replaced them.
        where = [done.x, done.s, *done.kept][: len(kept) + 1]
        if [tensor.data_ptr() for tensor in (x, *kept)] != where:
            return None
        if type(g) is not Tensor or not library.address(g) or g.shape != (done.T, done.B, H):
            return None
        g = side_by_side(g)  # the gradient of a sum has stride 0 everywhere
        if not plain(g, self.dtype):
            return None
        sweep = _copy(done)
        sweep.g, sweep.G, (sweep.g_stride_t, sweep.g_stride_b, _) = g.data_ptr(), H, g.stride()
        weights = {
            name: w for name, w, need in zip(self.names, saved[1:n], needs[1:], strict=True) if need
        }
        found = run_gradients(sweep, self.cell, x, weights, needs[0])
        note(self.engine.chosen(self.cell))
        return [found.x, *map(found.weights.get, self.names)]


def plain(x: Tensor, dtype: torch.dtype) -> bool:
    """Check whether this is an ordinary tensor in memory, with its last axis contiguous."""
    if type(x) is not Tensor or x.dtype is not dtype or not library.address(x):
        return False
    return x.stride(-1) == 1 or x.shape[-1] == 1
