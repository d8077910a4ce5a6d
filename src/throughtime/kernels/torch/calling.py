"""torch's fused modules: which one runs a cell, and how it is called within a graph of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...cells import GRU, LSTM, AbstractCell, Elman
from .packing import Packing, begun, ended, pack, unpacked

__all__ = ["KINDS", "as_leaf", "cell_name", "function", "order_of", "run_fused", "zeros"]

# torch's names for the recurrences that it has, by nonlinearity for the Elman cell.
ELMAN = {"tanh": "rnn_tanh", "relu": "rnn_relu"}
KINDS = ("LSTM", "GRU", *ELMAN)


def function(cell: AbstractCell) -> Any:
    """Return torch's function for a cell's recurrence, or None."""
    if type(cell) is Elman:
        name = ELMAN.get(cell.nonlinearity)
    else:
        name = {LSTM: "lstm", GRU: "gru"}.get(type(cell))  # pyright: ignore[reportArgumentType]
    return None if name is None else getattr(torch._VF, name)  # pyright: ignore


def cell_name(cell: AbstractCell) -> str:
    """Return the cell's name for a sentence."""
    kind = getattr(cell, "nonlinearity", None)
    return f"{type(cell).__name__}" + (f" with nonlinearity={kind!r}" if kind else "")


def as_leaf(tensor: Tensor) -> Tensor:
    """Return a tensor over the same memory and version, at which a graph of its own begins."""
    found = tensor.detach()
    return found.requires_grad_() if torch.is_grad_enabled() else found


def order_of(cell: AbstractCell) -> list[int]:
    """Return where torch's flat weights stand among the cell's."""
    names = list(cell.weights())
    order = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
    return [names.index(name) for name in order if name in names]


def zeros(cell: AbstractCell, x: Tensor) -> list[Tensor]:
    """Return the parts of the initial state, each (1, B, ·), for a row of zeros."""
    return [x.new_zeros(1, x.shape[1], width) for width in cell.parts()]


def run_fused(
    module: Any,
    x: Tensor,
    parts: tuple[Tensor, ...],
    weights: list[Tensor],
    how: Packing | None = None,
    *,
    bias: bool,
    layers: int = 1,
    both: bool = False,
) -> tuple[Tensor, ...]:
    """Return h (T, B, D·H) and the parts of the final state, each (L·D, B, ·).

    Args:
        module: torch's function, as `function` returns it.
        x: inputs (T, B, I).
        parts: of the initial state, each (L·D, B, ·), for L layers in D directions.
        weights: in torch's order, as `order_of` returns it for one layer.
        how: which steps each row takes, and where it begins anew; None: all, from the first.
        bias: whether there are biases.
        layers: L.
        both: whether D is 2.
    """
    train = torch.is_grad_enabled()
    if how is None:
        hx: Any = parts[0] if len(parts) == 1 else parts
        return module(x, hx, weights, bias, layers, 0.0, train, both, False)
    begins = tuple(begun(how, part, both=both) for part in parts)
    hx = begins[0] if len(begins) == 1 else begins
    data, *finals = module(pack(how, x), how.sizes, hx, weights, bias, layers, 0.0, train, both)
    h = unpacked(how, data, *x.shape[:2])
    ends = zip(finals, parts, strict=True)
    return h, *(ended(how, final, part, both=both) for final, part in ends)
