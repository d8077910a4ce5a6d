"""Which layers' states a stream carries, and whether a segment fits them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ..errors import (
    CheckpointError,
    DtypeError,
    InputTypeError,
    InputValueError,
    LayerNotFoundError,
    ShapeError,
    UnsupportedError,
)
from ..layers.directions import state_widths
from ..layers.leaf import is_drawn
from ..layers.modules import GRU, LSTM, RNN
from ..layers.recurrent import Recurrent
from ..layers.recurrent_kinds import within_layers
from ..torch_state import is_exported, is_jit_traced
from .cutting import leaves

__all__ = [
    "State",
    "carried_layers",
    "check_kind",
    "check_mask",
    "check_rows",
    "check_unrecorded",
    "each",
    "time_axis",
    "title",
]

# What h_n, (h_n, c_n) or s_T is to its layer.
State = Tensor | tuple[Tensor, ...]

OWN = (RNN, LSTM, GRU, Recurrent)
CARRIED = {kind.forward for kind in (*OWN, nn.RNN, nn.LSTM, nn.GRU)}


def title(name: str, layer: nn.Module) -> str:
    """Return what a message calls a layer."""
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


def check_unrecorded(layer_title: str, given: Iterable[object]) -> None:
    """Raise where an exporter or tracer records the call: the state would be a constant of it.

    Args:
        layer_title: what a message calls the layer.
        given: what it was called with.

    Raises:
        UnsupportedError: one does, or `torch.fx.symbolic_trace` draws the call, which has no state.
    """
    if is_drawn(given):
        raise UnsupportedError(
            f"a stream carries the state that {layer_title} ends with, and torch.fx.symbolic_trace "
            "has none. Draw the graph before the loop or after it."
        )
    if is_exported() or is_jit_traced():
        raise UnsupportedError(
            f"a stream hands {layer_title} its state from outside the model, so what is exported "
            "or traced here would begin from this segment's state for good. Export outside of the "
            "loop, a model that takes hx and returns the final state."
        )


def carried_layers(model: nn.Module, resets: bool) -> dict[str, nn.Module]:
    """Find the layers whose state is carried, by path.

    Raises:
        LayerNotFoundError: there is none.
        UnsupportedError: one that cannot be carried, or not be reset.
    """
    found: dict[str, nn.Module] = {}
    inside = within_layers(model)
    for path, module in model.named_modules():
        if module in inside:
            continue
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


def time_axis(layers: dict[str, nn.Module], batch_first: object) -> bool:
    """Return whether what is cut is (B, T, ·): as the layers say, which all have to agree.

    Args:
        layers: those whose state is carried, by path.
        batch_first: what the caller says, or None.

    Raises:
        InputTypeError: ``batch_first`` is neither a bool nor None.
        InputValueError: the layers say another thing than the caller; or they disagree, and the
            caller says nothing.
    """
    if not (batch_first is None or isinstance(batch_first, bool)):
        raise InputTypeError(f"batch_first must be True, False or None; got {batch_first!r}.")
    told = {name: bool(layer.batch_first) for name, layer in layers.items()}
    kinds = set(told.values())
    if len(kinds) > 1:
        if batch_first is None:
            first, last = (next(n for n, b in told.items() if b is kind) for kind in (True, False))
            raise InputValueError(
                f"{title(first, layers[first])} has batch_first=True and "
                f"{title(last, layers[last])} has not, so the time axis cannot be known from them; "
                "say how the source lies: batch_first=True for (B, T, ·), or False for (T, B, ·)."
            )
        return batch_first
    (layers_say,) = kinds
    if batch_first is not None and batch_first != layers_say:
        name, layer = next(iter(layers.items()))
        raise InputValueError(
            f"batch_first={batch_first} was given, but {title(name, layer)} has "
            f"batch_first={layers_say}: the stream would cut the batch and carry the states of "
            "rows into other rows. Leave the argument out; for a model that turns the axes itself, "
            "carry hx by hand: tt.segments(source, window)."
        )
    return layers_say


def each(function: Any, state: State) -> State:
    """Return what a function makes of each part of a state."""
    if isinstance(state, Tensor):
        return function(state)
    return tuple(function(part) for part in state)


def check_kind(layer_title: str, layer: Any, state: object) -> None:
    """Raise unless a state that was saved is one of this layer's, but for its rows.

    Raises:
        CheckpointError: it is not.
    """
    if isinstance(layer, Recurrent):
        widths, lead = (layer.cell.state_size,), ()
        like = next(iter(layer.cell.weights().values()), None)
    else:
        widths, lead, like = state_widths(layer), (layer.num_layers,), layer.weight_ih_l0
    parts = state if isinstance(state, tuple) else (state,)
    fits = len(parts) == len(widths) and all(
        isinstance(part, Tensor)
        and part.shape[-1:] == (width,)
        and part.shape[: len(lead)] == lead
        and (like is None or part.dtype == like.dtype)
        for part, width in zip(parts, widths, strict=False)
    )
    if fits:
        return
    got = ", ".join(
        f"{tuple(p.shape)} of {p.dtype}" if isinstance(p, Tensor) else type(p).__name__
        for p in parts
    )
    wanted = " and ".join(str((*lead, "B", width)).replace("'", "") for width in widths)
    dtype = "" if like is None else f" of {like.dtype}"
    raise CheckpointError(
        f"the state of {layer_title} is {wanted}{dtype}; {got} was saved. Nothing was loaded."
    )


def check_mask(mask: object, beside: Any, batch_first: bool) -> None:
    """Raise unless it is a bool tensor with an axis of steps and one of rows.

    Args:
        mask: what was given as one.
        beside: what it is cut with.
        batch_first: whether the rows come first.

    Raises:
        InputTypeError: no tensor.
        DtypeError: not bool.
        ShapeError: another number of axes, or other steps or rows than what stands beside it.
    """
    if not isinstance(mask, Tensor):
        raise InputTypeError(f"a reset mask must be a bool tensor; got {type(mask).__name__}.")
    if mask.dtype != torch.bool:
        raise DtypeError(f"a reset mask must be bool; got {mask.dtype}. Say mask.bool().")
    if mask.dim() != 2:
        raise ShapeError(f"a reset mask has a step and a row axis; got {tuple(mask.shape)}.")
    sizes = {tensor.shape[:2] for tensor in leaves(beside) if tensor.dim() > 2}
    rows = 0 if batch_first else 1
    if sizes and mask.shape[rows] not in {size[rows] for size in sizes}:
        axes = "(B, T)" if batch_first else "(T, B)"
        wanted = " or ".join(str(tuple(size)) for size in sizes)
        raise ShapeError(
            f"a reset mask must be {axes} as what it is cut with, {wanted}; got "
            f"{tuple(mask.shape)}."
        )
