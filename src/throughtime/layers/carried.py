"""Which layers' states a stream carries, and whether a segment fits them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ..errors import (
    DtypeError,
    InputTypeError,
    LayerNotFoundError,
    ShapeError,
    UnsupportedError,
)
from .modules import GRU, LSTM, RNN
from .recurrent import Recurrent

__all__ = ["State", "carried_layers", "check_mask", "check_rows", "each", "title"]

# What h_n, (h_n, c_n) or s_T is to its layer.
State = Tensor | tuple[Tensor, ...]

OWN = (RNN, LSTM, GRU, Recurrent)
CARRIED = {kind.forward for kind in (*OWN, nn.RNN, nn.LSTM, nn.GRU)}


def title(name: str, layer: nn.Module) -> str:
    """Give what a message calls a layer."""
    return f"{type(layer).__name__} {name!r}" if name else f"the {type(layer).__name__}"


def check_rows(layer_title: str, layer: Any, input: Any, state: State) -> None:
    """Raise where the batch is not the one that the state is of.

    Raises:
        ShapeError: it is another one.
    """
    h = state if isinstance(state, Tensor) else state[0]
    carried = h.shape[-2] if h.dim() == (2 if isinstance(layer, Recurrent) else 3) else None
    if isinstance(input, PackedSequence):
        rows = int(input.batch_sizes[0])
    elif isinstance(input, Tensor):
        rows = input.shape[0 if layer.batch_first else 1] if input.dim() == 3 else None
    else:
        return
    if rows != carried:
        told = ["no batch axis" if n is None else f"B={n}" for n in (carried, rows)]
        raise ShapeError(
            f"the state carried into {layer_title} has {told[0]} but this segment has {told[1]}; a "
            "row goes on from its own past. Keep the batch as it is, or make a new stream."
        )


def carried_layers(model: nn.Module, resets: bool) -> dict[str, nn.Module]:
    """Find the layers whose state is carried, by path.

    Raises:
        LayerNotFoundError: there is none.
        UnsupportedError: one that cannot be carried, or not be reset.
    """
    found: dict[str, nn.Module] = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.RNNCellBase) or (
            isinstance(module, (nn.RNNBase, Recurrent)) and type(module).forward not in CARRIED
        ):
            raise UnsupportedError(
                f"the state of {title(path, module)} cannot be seen from outside, so it cannot be "
                "carried; tt.Recurrent(tt.cells.Function(step, ...)) makes a layer of a step, and "
                "tt.segments(source, window) leaves the state to you."
            )
        if not isinstance(module, (nn.RNNBase, Recurrent)):
            continue
        if getattr(module, "bidirectional", False):
            raise UnsupportedError(
                f"{title(path, module)} is bidirectional; its reverse direction begins at the "
                "sequence's end, which a stream has not yet seen. Use bidirectional=False, or give "
                "the model the whole sequence with tt.Checkpointed(memory=...)."
            )
        if resets and not isinstance(module, OWN):
            raise UnsupportedError(
                f"{title(path, module)} is of torch.nn, which knows no resets; "
                "tt.convert(model) makes it one that does."
            )
        found[path] = module
    if not found:
        raise LayerNotFoundError(
            f"{type(model).__name__} holds no recurrent layer, so there is no state to carry."
        )
    return found


def each(function: Any, state: State) -> State:
    """Give what a function makes of each part of a state."""
    if isinstance(state, Tensor):
        return function(state)
    return tuple(function(part) for part in state)


def check_mask(mask: object) -> None:
    """Raise unless it is a bool tensor with an axis of steps and one of rows.

    Raises:
        InputTypeError: no tensor.
        DtypeError: not bool.
        ShapeError: another number of axes.
    """
    if not isinstance(mask, Tensor):
        raise InputTypeError(f"a reset mask must be a bool tensor; got {type(mask).__name__}.")
    if mask.dtype != torch.bool:
        raise DtypeError(f"a reset mask must be bool; got {mask.dtype}. Say mask.bool().")
    if mask.dim() != 2:
        raise ShapeError(f"a reset mask has a step and a row axis; got {tuple(mask.shape)}.")
