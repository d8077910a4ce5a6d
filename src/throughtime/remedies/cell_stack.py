"""Layers of one direction over any cell, called as ``torch.nn``'s layers are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..cells.base import AbstractCell
from ..layers import Recurrent

__all__ = ["Stacked", "cells_over", "stackable"]

C = TypeVar("C", bound=AbstractCell)


class Stacked(nn.Module):
    """`tt.Recurrent` layers over one another, with the call and the results of an RNN or LSTM.

    Shapes:
        input (T, B, I) → output (T, B, H); h_n (L, B, H), or (h_n, c_n) for cells of two parts.
    """

    bidirectional = False

    def __init__(self, cells: Sequence[AbstractCell], batch_first: bool, parts: int = 1) -> None:
        """Take the cells, the lowest first.

        Args:
            cells: one a layer.
            batch_first: whether input and output are (B, T, ·).
            parts: 1 where the state is h, 2 where it is (h, c).
        """
        super().__init__()
        self.layers = nn.ModuleList(Recurrent(cell, batch_first=batch_first) for cell in cells)
        self.input_size, self.hidden_size = cells[0].input_size, cells[0].hidden_size
        self.num_layers, self.batch_first, self.parts = len(cells), batch_first, parts

    def forward(self, input: Any, hx: Any = None, **named: Any) -> tuple[Any, Any]:
        """Run the layers; states and results are those of ``torch.nn``."""
        states = None
        if hx is not None:
            states = torch.cat(hx, -1) if self.parts > 1 else hx
        finals: list[Tensor] = []
        for i, layer in enumerate(self.layers):
            input, last = layer(input, None if states is None else states[i], **named)
            finals.append(last)
        stacked = torch.stack(finals)
        if self.parts > 1:
            return input, tuple(part.contiguous() for part in stacked.chunk(self.parts, -1))
        return input, stacked

    def flatten_parameters(self) -> None:
        """Do nothing: there is no fused module to prepare."""


def _copy_weights(cell: nn.Module, layer: nn.RNNBase, number: int) -> None:
    """Copy W_x, W_h and the biases of one level of a layer into a cell.

    Args:
        cell: with weights of the same shapes.
        layer: what it stands for.
        number: of the level, from 0.
    """
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        weight = getattr(layer, f"{name}_l{number}", None)
        if weight is not None:
            with torch.no_grad():
                getattr(cell, name).copy_(weight)


def cells_over(layer: nn.RNNBase, kind: Callable[..., C]) -> list[C]:
    """Return a cell for each level of a layer, with copies of its W_x, W_h and biases.

    Args:
        layer: what they stand for.
        kind: of input size, hidden size, bias, device and dtype.
    """
    weight = next(iter(layer.parameters()))
    like = {"device": weight.device, "dtype": weight.dtype}
    cells = []
    for number in range(layer.num_layers):
        width = layer.hidden_size if number else layer.input_size
        cell = kind(width, layer.hidden_size, bias=bool(layer.bias), **like)
        _copy_weights(cell, layer, number)
        cells.append(cell)
    return cells


def stackable(layer: nn.Module, kinds: tuple[type[nn.Module], ...]) -> bool:
    """Check whether `Stacked` can stand for a layer: one direction, no dropout, no projection.

    Args:
        layer: any module.
        kinds: the classes that it may have.
    """
    if type(layer) not in kinds or not isinstance(layer, nn.RNNBase):
        return False
    return not (layer.bidirectional or layer.proj_size or (layer.dropout and layer.num_layers > 1))
