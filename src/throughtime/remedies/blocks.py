"""Where the weights of a recurrent layer or cell are, by layer and direction."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from ..cells import GRU, LSTM, Elman
from ..errors import InputTypeError, InputValueError

__all__ = ["biases", "gates_of", "suffixes"]

GATES = {"LSTM": 4, "GRU": 3}


def gates_of(layer: nn.Module) -> int:
    """Return how many gate blocks the weights of a layer or cell have: 1, 3 or 4.

    Raises:
        InputTypeError: it is no recurrent layer or cell of these kinds.
    """
    if isinstance(layer, nn.RNNBase):
        return GATES.get(layer.mode, 1)
    if isinstance(layer, (Elman, GRU, LSTM)):
        return layer.gates
    raise InputTypeError(
        "layer must be an RNN, LSTM or GRU of torch.nn or throughtime, or such a cell; got "
        f"{type(layer).__name__}. Of a model, give the recurrent layer."
    )


def suffixes(layer: nn.Module) -> list[str]:
    """Return what follows the names of a layer's weights: ``"_l0"``, …; ``""`` for a cell."""
    if not isinstance(layer, nn.RNNBase):
        return [""]
    directions = ("", "_reverse") if layer.bidirectional else ("",)
    return [f"_l{i}{direction}" for i in range(layer.num_layers) for direction in directions]


def biases(layer: nn.Module) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Return gates, bias_ih and bias_hh of every layer and direction.

    Raises:
        InputTypeError: it is no recurrent layer or cell.
        InputValueError: it has no biases.
    """
    gates = gates_of(layer)
    for suffix in suffixes(layer):
        bias_ih, bias_hh = (getattr(layer, f"bias_{k}{suffix}", None) for k in ("ih", "hh"))
        if bias_ih is None or bias_hh is None:
            raise InputValueError(f"{type(layer).__name__} has no biases; build it with bias=True.")
        yield gates, bias_ih, bias_hh
