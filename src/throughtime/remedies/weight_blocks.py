"""Where the weights of a recurrent layer or cell are, by layer and direction."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Generator, Tensor, nn

from ..cells.base import GatedWeights
from ..errors import InputTypeError, InputValueError
from ..layers import Recurrent

__all__ = [
    "biases",
    "gates_of",
    "has_gates",
    "is_plain",
    "recurrent_weights",
    "redrawn_",
    "weight_suffixes",
    "weights_in",
]

M = TypeVar("M", bound=nn.Module)

GATES = {"LSTM": 4, "GRU": 3}
CELLS = {nn.LSTMCell: 4, nn.GRUCell: 3, nn.RNNCell: 1}


def weights_in(layer: nn.Module) -> nn.Module:
    """Return the module that holds a layer's weights: of a `tt.Recurrent` its cell."""
    return layer.cell if isinstance(layer, Recurrent) else layer


def gates_of(layer: nn.Module) -> int:
    """Return how many gate blocks the weights of a layer or cell have: 1, 3 or 4.

    Raises:
        InputTypeError: it is no recurrent layer or cell of these kinds.
    """
    layer = weights_in(layer)
    if isinstance(layer, nn.RNNBase):
        return GATES.get(layer.mode, 1)
    if isinstance(layer, GatedWeights):
        return layer.gates
    for kind, gates in CELLS.items():
        if isinstance(layer, kind):
            return gates
    raise InputTypeError(
        "layer must be an RNN, LSTM or GRU of torch.nn or throughtime, or such a cell; got "
        f"{type(layer).__name__}. Of a model, give the recurrent layer."
    )


def is_plain(layer: nn.Module) -> bool:
    """Check whether a layer is h_t = f(W_h h_{t-1} + …), without gates."""
    try:
        return gates_of(layer) == 1
    except InputTypeError:
        return False


def has_gates(layer: nn.Module) -> bool:
    """Check whether a layer has gates with biases."""
    try:
        return gates_of(layer) > 1 and bool(list(biases(layer)))
    except (InputTypeError, InputValueError):
        return False


def weight_suffixes(layer: nn.Module) -> list[str]:
    """Return what follows the names of a layer's weights: ``"_l0"``, …; ``""`` for a cell."""
    if not isinstance(layer, nn.RNNBase):
        return [""]
    directions = ("", "_reverse") if layer.bidirectional else ("",)
    return [f"_l{i}{direction}" for i in range(layer.num_layers) for direction in directions]


def recurrent_weights(layer: nn.Module) -> list[Tensor]:
    """Return W_h of every layer and direction, the gates' blocks stacked."""
    holds = weights_in(layer)
    return [getattr(holds, f"weight_hh{suffix}") for suffix in weight_suffixes(holds)]


def biases(layer: nn.Module) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Return gates, bias_ih and bias_hh of every layer and direction.

    Raises:
        InputTypeError: it is no recurrent layer or cell.
        InputValueError: it has no biases.
    """
    gates, layer = gates_of(layer), weights_in(layer)
    for suffix in weight_suffixes(layer):
        bias_ih, bias_hh = (getattr(layer, f"bias_{k}{suffix}", None) for k in ("ih", "hh"))
        if bias_ih is None or bias_hh is None:
            raise InputValueError(f"{type(layer).__name__} has no biases; build it with bias=True.")
        yield gates, bias_ih, bias_hh


def redrawn_(layer: M, H: int, generator: Generator | None) -> M:
    """Draw every weight from U(−1/√H, 1/√H), as ``torch.nn`` does, and return the layer.

    Args:
        layer: any module.
        H: hidden units.
        generator: for reproducible draws; None leaves the weights as they are.
    """
    if generator is not None:
        for weight in layer.parameters():
            drawn = torch.rand(weight.shape, generator=generator, device=generator.device)
            with torch.no_grad():
                weight.copy_((2 * drawn - 1) / math.sqrt(H))
    return layer
