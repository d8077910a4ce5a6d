"""The arguments of a native sweep."""

from __future__ import annotations

import torch
from torch import Tensor

from ..cells import GRU, LSTM, AbstractCell, Elman
from ..cells.elman import NONLINEARITIES
from ..errors import ShapeError
from ..shapes import check
from . import native

__all__ = ["Arguments", "Span"]

NONLINEARITY = {name: number for number, name in enumerate(NONLINEARITIES)}


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


class Arguments:
    """The arguments of one native sweep, each checked; whoever runs it fills in the rest.

    Attributes:
        sweep: what the native call gets.
        alive: tensors that must outlive the call.
    """

    def __init__(
        self,
        cell: AbstractCell,
        number: int,
        x: Tensor | None,
        s: Tensor,
        active: Tensor | None,
        reset: Tensor | None,
    ) -> None:
        """Describe the cell, its input and its states.

        Args:
            cell: the recurrence.
            number: of its compiled kernel.
            x: inputs (T, B, I); None where a way back wants no gradient of a weight or input.
            s: states (T+1, B, S), or (2, B, S) for a way forward that keeps the last alone.
            active: (T, B) bool; None: every row takes every step.
            reset: (T, B) bool, or None.
        """
        assert isinstance(cell, (Elman, LSTM, GRU))
        self.cell, self.alive = cell, []
        self.sweep = sweep = native.Sweep(
            cell=number, dtype=int(s.dtype == torch.float64), T=s.shape[0] - 1, B=s.shape[1],
            I=cell.input_size, H=cell.hidden_size, V=1, keep=1,
        )  # fmt: skip
        if isinstance(cell, Elman):
            sweep.nonlinearity = NONLINEARITY[cell.nonlinearity]
        self.weights = cell.weights()
        sizes = {"A": cell.preact_size, "H": cell.hidden_size, "I": cell.input_size}
        sweep.weight_hh = self.keep("weight_hh", self.weights["weight_hh"], "A H", sizes)
        sweep.weight_ih = self.keep("weight_ih", self.weights["weight_ih"], "A I", sizes)
        sweep.s = s.data_ptr()
        if x is not None:
            sweep.T = x.shape[0]
            x = x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()
            check("x", x, "T B I", {"B": sweep.B, "I": sweep.I})
            self.alive.append(x)
            sweep.x, sweep.x_stride_t, sweep.x_stride_b = x.data_ptr(), x.stride(0), x.stride(1)
        if reset is not None:
            sweep.reset = self.keep("reset", reset, "T B", {"T": sweep.T, "B": sweep.B})
        if active is not None:
            span = Span.of(active)
            assert not span.obstacle
            sweep.first = self.keep("first", span.first, "B", {"B": sweep.B})
            sweep.last = self.keep("last", span.last, "B", {"B": sweep.B})

    def keep(self, name: str, tensor: Tensor, axes: str, sizes: dict[str, int]) -> int:
        """Check a tensor, keep it until the call is over, and give its address."""
        check(name, tensor, axes, sizes)
        tensor = tensor.contiguous()
        self.alive.append(tensor)
        return tensor.data_ptr()

    def add_bias(self) -> None:
        """Give the biases, if the cell has any."""
        weights, sizes = self.weights, {"A": self.cell.preact_size}
        if "bias_ih" in weights:
            self.sweep.bias_ih = self.keep("bias_ih", weights["bias_ih"], "A", sizes)
            self.sweep.bias_hh = self.keep("bias_hh", weights["bias_hh"], "A", sizes)

    def add_direct(self, g: Tensor, V: int) -> None:
        """Say what enters: g (V, T, B, G), or (T, B, G) of which each loss has one step."""
        sweep, cell = self.sweep, self.cell
        g = _readable(g, cell.hidden_size, cell.state_size)
        axes = "V T B G" if g.dim() == 4 else "T B G"
        check("g", g, axes, {"V": V, "T": sweep.T, "B": sweep.B})
        self.alive.append(g)
        sweep.g, sweep.G, sweep.g_sparse = g.data_ptr(), g.shape[-1], g.dim() == 3
        sweep.g_stride_v = g.stride(0) if g.dim() == 4 else 0
        sweep.g_stride_t, sweep.g_stride_b = g.stride(-3), g.stride(-2)


def _readable(g: Tensor, H: int, S: int) -> Tensor:
    """Give g with H or S columns that lie side by side; rows may lie anywhere."""
    G = g.shape[-1]
    if G > S:
        raise ShapeError(f"g has {G} columns, and the state {S}.")
    if G not in (H, S):
        g = torch.nn.functional.pad(g, (0, (H if G < H else S) - G))
    return g if g.stride(-1) == 1 or g.shape[-1] == 1 else g.contiguous()
