"""The arguments of a compiled sweep, each checked before native code sees it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from ...cells import AbstractCell, Elman
from ...cells.elman import NONLINEARITIES
from ...errors import DtypeError, ShapeError
from ...shapes import check_shape
from ...tape import Tape
from . import library

__all__ = ["Arguments", "Span", "know", "lengths_known", "side_by_side"]

# What a cell with layer norm has in addition, by gate or by unit of c.
GAINS = ("gain_ih", "gain_hh", "gain_c", "bias_c")
NONLINEARITY = {name: number for number, name in enumerate(NONLINEARITIES)}


# Every layer is given the batch's mask, forward and back.
_SPANS = WeakTensorKeyDictionary()


class Span:
    """The steps first ≤ t < last that each row takes; what the kernel gets for ``active``.

    Attributes:
        first: (B,) int32; None: 0 for all.
        last: (B,) int32.
        obstacle: why ``active`` is not of this form; empty if it is.
    """

    def __init__(self, first: Tensor | None, last: Tensor, obstacle: str) -> None:
        """Keep the three."""
        self.first, self.last, self.obstacle = first, last, obstacle

    @classmethod
    def of(cls, active: Tensor) -> Span:
        """Read from ``active`` (T, B) where each row begins and ends, once per tensor."""
        found = _SPANS.get(active)
        if found is None or found[0] != _version(active):
            _SPANS[active] = found = (_version(active), cls._read(active))
        return found[1]

    @classmethod
    def _read(cls, active: Tensor) -> Span:
        T = active.shape[0]
        last = active.sum(0, dtype=torch.int32)
        steps = torch.arange(T, dtype=torch.int32, device=active.device)[:, None]
        if torch.equal(active, steps < last):
            return cls(None, last, "")
        first = T - last
        if torch.equal(active, steps >= first):
            return cls(first, torch.full_like(last, T), "")
        return cls(first, last, "the steps that a row takes are not consecutive from an end on.")


def know(active: Tensor, lengths: Tensor) -> None:
    """Note that ``active`` (T, B) is True for the first ``lengths`` (B,) steps of each row.

    Code that made the mask from lengths thus saves `Span.of` from reading them off again.
    """
    last = lengths.detach().to("cpu", torch.int32, copy=True)
    _SPANS[active] = (_version(active), Span(None, last, ""))


def lengths_known(active: Tensor) -> Tensor | None:
    """Return how many steps each row takes from its first on, on the CPU, if `know` was told."""
    found = _SPANS.get(active)
    if found is None or found[0] != _version(active) or found[1].obstacle:
        return None
    span = found[1]
    return span.last if span.first is None and span.last.is_cpu else None


def _version(tensor: Tensor) -> int:
    """Return a number that changes with every write into a tensor, if torch counts them."""
    return -1 if tensor.is_inference() else tensor._version


class Arguments:
    """The arguments of one native sweep, each checked; the caller fills in the rest.

    Of a short sweep's time, Python's share is spent here, so a check that passes is a single
    comparison.

    Attributes:
        sweep: what the native call is given.
        alive: tensors that must outlive the call.
    """

    def __init__(
        self,
        cell: AbstractCell,
        number: int,
        T: int,
        B: int,
        x: Tensor | None,
        active: Tensor | None,
        reset: Tensor | None,
        *,
        back: bool,
    ) -> None:
        """Describe the cell and its input.

        Args:
            cell: the recurrence.
            number: of its compiled kernel.
            T: steps.
            B: batch rows.
            x: inputs (T, B, I); None where a backward pass wants no gradient of a weight or input.
            active: (T, B) bool; None: every row takes every step.
            reset: (T, B) bool, or None.
            back: the direction.
        """
        weights = cell._parameters
        weight_hh, weight_ih = weights["weight_hh"], weights["weight_ih"]
        assert weight_hh is not None and weight_ih is not None
        A, I, H = cell.preact_size, cell.input_size, cell.hidden_size
        self.cell, self.T, self.B, self.alive = cell, T, B, []
        self.dtype = dtype = weight_hh.dtype
        self.sweep = sweep = library.Sweep(cell=number, T=T, B=B, I=I, H=H, V=1, keep=1)
        sweep.dtype = dtype is torch.float64
        if isinstance(cell, Elman):
            sweep.nonlinearity = NONLINEARITY[cell.nonlinearity]
        sweep.eps = getattr(cell, "eps", 0.0)
        for name in GAINS:
            weight = weights.get(name)
            if weight is not None:
                size = H if name.endswith("_c") else A
                setattr(sweep, name, self.keep(name, weight, "N", size))
        sweep.weight_hh = self.keep("weight_hh", weight_hh, "A H", A, H)
        sweep.weight_ih = self.keep("weight_ih", weight_ih, "A I", A, I)
        if not back:
            for name in ("bias_ih", "bias_hh"):
                bias = weights.get(name)
                if bias is not None:
                    setattr(sweep, name, self.keep(name, bias, "A", A))
        if x is not None:
            if x.shape != (T, B, I) or x.dtype is not dtype:
                check_shape("x", x, "T B I", {"T": T, "B": B, "I": I}, like=weight_hh)
            x = side_by_side(x)
            self.alive.append(x)
            sweep.x = x.data_ptr()
            sweep.x_stride_t, sweep.x_stride_b, _ = x.stride()
        if reset is not None:
            sweep.reset = self.keep("reset", reset, "T B", T, B, dtype=torch.bool)
        if active is not None:
            if active.shape != (T, B):
                check_shape("active", active, "T B", {"T": T, "B": B})
            span = Span.of(active)
            assert not span.obstacle
            if span.first is not None:
                sweep.first = self.keep("first", span.first, "B", B, dtype=torch.int32)
            sweep.last = self.keep("last", span.last, "B", B, dtype=torch.int32)

    def keep(
        self,
        name: str,
        tensor: Tensor,
        axes: str,
        *shape: int,
        dtype: torch.dtype | None = None,
    ) -> int:
        """Check a tensor, keep it until the call is over, and return its address.

        Without ``dtype`` it must have the weights'.

        Raises:
            DtypeError: it has another one.
        """
        if tensor.shape != shape:
            check_shape(name, tensor, axes, dict(zip(axes.split(), shape, strict=True)))
        wanted = dtype or self.dtype
        if tensor.dtype is not wanted:
            raise DtypeError(f"{name} must be of {wanted}; got {tensor.dtype}.")
        tensor = tensor.contiguous()
        self.alive.append(tensor)
        return tensor.data_ptr()

    def add_tape(self, tape: Tape) -> None:
        """Add what the forward sweep saved besides the states."""
        widths = self.cell.kept_widths() or ()
        for i, width in enumerate(widths):
            kept = self.keep(f"saved[{i}]", tape.saved[i], "T B W", self.T, self.B, width)
            self.sweep.kept[i] = kept

    def add_direct(self, g: Tensor, V: int) -> None:
        """Add what enters: g (V, T, B, G), or (T, B, G), of which each loss takes one step."""
        sweep, cell = self.sweep, self.cell
        H, S, G = cell.hidden_size, cell.state_size, g.shape[-1]
        if G > S:
            raise ShapeError(f"g has {G} columns, and the state {S}.")
        if G not in (H, S):
            g = torch.nn.functional.pad(g, (0, (H if G < H else S) - G))
        lead = (V, self.T, self.B) if g.dim() == 4 else (self.T, self.B)
        if g.dtype is not self.dtype:
            raise DtypeError(f"g must be of {self.dtype}; got {g.dtype}.")
        if g.shape[:-1] != lead:
            axes = "V T B G" if g.dim() == 4 else "T B G"
            check_shape("g", g, axes, {"V": V, "T": self.T, "B": self.B})
        g = side_by_side(g)
        self.alive.append(g)
        sweep.g, sweep.G = g.data_ptr(), g.shape[-1]
        *first, sweep.g_stride_t, sweep.g_stride_b, _ = g.stride()
        sweep.g_stride_v = first[0] if first else 0


def side_by_side(x: Tensor) -> Tensor:
    """Return x with the last axis contiguous; rows may lie anywhere."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()
