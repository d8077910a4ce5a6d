"""The arguments of a native sweep, over any range of the steps."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..cells import GRU, LSTM, AbstractCell, Elman
from ..cells.elman import NONLINEARITIES
from ..shapes import check
from . import native

__all__ = ["Places", "Span", "Steps"]


class Places(NamedTuple):
    """Where the steps that rows take lie, one after the other, once the others are left out.

    Attributes:
        of: (T, B) int32, the place of each step of each row; -1 where it is not taken.
        taken: (N,) the flat numbers t·B + b of those that are taken, in order.
    """

    of: Tensor
    taken: Tensor

    @classmethod
    def among(cls, active: Tensor) -> Places:
        """Number the steps taken in ``active`` (T, B)."""
        flat = active.flatten()
        of = flat.cumsum(0, dtype=torch.int32).sub_(1).masked_fill_(~flat, -1)
        return cls(of, flat.nonzero()[:, 0])

    def pick(self, rows: Tensor) -> Tensor:
        """Give the rows taken out of (T, B, ·): (N, ·)."""
        return rows.reshape(-1, rows.shape[-1]).index_select(0, self.taken)


class Span:
    """The steps first ≤ t < last that each row takes; what the kernel gets for ``active``.

    Attributes:
        first: (B,) int32.
        last: (B,) int32.
        obstacle: why ``active`` cannot be said so; empty where it can.
    """

    def __init__(self, first: Tensor, last: Tensor, obstacle: str) -> None:
        """Keep the three."""
        self.first, self.last, self.obstacle = first, last, obstacle

    def ends(self) -> tuple[Tensor, Tensor]:
        """Give both."""
        return self.first, self.last

    @classmethod
    def of(cls, active: Tensor) -> Span:
        """Read off ``active`` (T, B) where each row begins and ends."""
        T = active.shape[0]
        last = active.sum(0, dtype=torch.int32)
        steps = torch.arange(T, dtype=torch.int32)[:, None]
        if torch.equal(active, steps < last):
            return cls(torch.zeros_like(last), last, "")
        first = T - last
        if torch.equal(active, steps >= first):
            return cls(first, torch.full_like(last, T), "")
        return cls(first, last, "the steps that a row takes are not consecutive from an end on.")


class Steps:
    """One sweep's arguments, checked once, to be run over one range of steps after the other.

    Attributes:
        sweep: what the native call gets; whoever builds this fills in what its direction needs.
        alive: tensors that must outlive the calls.
        a: the gates of all steps (T, B, A), for the way back.
        g: what enters, (V, T, B, G) or (T, B, G), for the way back.
    """

    def __init__(
        self,
        cell: AbstractCell,
        number: int,
        s: Tensor,
        q: Tensor | None,
        span: Span | None,
        reset: Tensor | None,
        *,
        back: bool,
    ) -> None:
        """Describe the cell and its arrays.

        Args:
            cell: the recurrence.
            number: of its compiled kernel.
            s: states (T+1, B, S), contiguous.
            q: the GRU's hidden side of n (T, B, H), contiguous.
            span: the steps that each row takes; None: all.
            reset: (T, B) bool, or None.
            back: the direction.
        """
        assert isinstance(cell, (Elman, LSTM, GRU))
        T, B, H = s.shape[0] - 1, s.shape[1], cell.hidden_size
        weight = cell.weight_hh.detach().contiguous()
        check("weight_hh", weight, "A H", {"A": cell.preact_size, "H": H})
        bias = None
        if number == 2 and cell.bias_hh is not None:
            bias = cell.bias_hh.detach()[2 * H :].contiguous()
        if reset is not None:
            check("reset", reset, "T B", {"T": T, "B": B})
            reset = reset.contiguous()
        self.a: Tensor | None = None
        self.g: Tensor | None = None
        self._s, self._q, self._span, self._reset, self._back = s, q, span, reset, back
        self.sweep = sweep = native.Sweep(
            cell=number, dtype=int(s.dtype == torch.float64), T=T, B=B, H=H, V=1, keep=1
        )
        if isinstance(cell, Elman):
            sweep.nonlinearity = list(NONLINEARITIES).index(cell.nonlinearity)
        sweep.weight_hh, sweep.bias_n = native.pointer(weight), native.pointer(bias)
        self._packed = native.empty(s, native.packed_size(sweep, back=back))
        sweep.packed = self._packed.data_ptr()
        self.alive: list[Tensor | None] = [weight, bias]

    def run(
        self,
        first: int,
        last: int,
        a: Tensor | None = None,
        places: Places | None = None,
        drive: Tensor | None = None,
    ) -> None:
        """Run the steps first ≤ t < last, counted from 0.

        Args:
            first: the first step.
            last: the step after the last.
            a: pre-activations of these steps in, gates out; None: the gates kept in ``self.a``.
            places: where ``drive`` and the adjoints of these steps lie; None: at t·B + b.
            drive: pre-activations, where they are not in ``a``.
        """
        sweep = self.sweep
        if a is None:
            assert self.a is not None
            a = self.a[first:last]
        sweep.T, sweep.a, sweep.s = last - first, a.data_ptr(), self._s[first].data_ptr()
        sweep.places = None if places is None else places.of.data_ptr()
        sweep.drive = native.pointer(drive)
        if self._q is not None:
            sweep.q = self._q[first].data_ptr()
        if self._reset is not None:
            sweep.reset = self._reset[first].data_ptr()
        if self.g is not None:
            sweep.g = self.g.select(-3, first).data_ptr()
        ends: list[Tensor] = []
        if self._span is not None:
            ends = [(e - first).clamp_(0, last - first) for e in self._span.ends()]
            sweep.first, sweep.last = ends[0].data_ptr(), ends[1].data_ptr()
        native.run(sweep, back=self._back)
        sweep.packed_ready = 1
