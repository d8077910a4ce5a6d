"""A recurrent module as ``torch.nn`` has them, over whatever a layer accepts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from .. import kernels
from ..errors import DeviceError, InputTypeError
from ..kernels.by_row import CALLS, COLLECTORS
from ..node.recording import Recording
from ..shapes import check_shape
from ..torch_state import is_autocast
from .directions import all_weights, cell_of, one_by_one, state_widths
from .inputs import Batch, dropout, from_time_first, lengths_of, to_time_first
from .stacked import all_at_once

__all__ = ["follows_autocast", "run_bptt"]


def run_bptt(
    module: nn.RNNBase,
    input: Tensor | PackedSequence,
    hx: Tensor | tuple[Tensor, Tensor] | None = None,
    *,
    lengths: Tensor | Sequence[int] | None = None,
    reset: Tensor | None = None,
    mask: Tensor | None = None,
    recording: Recording | None = None,
    path: str = "",
):
    """Run a recurrent module of ``torch.nn`` or of this package by exact BPTT.

    Args:
        module: an `nn.RNN`, `nn.LSTM`, `nn.GRU` or one of this package's.
        input: (T, B, I), (B, T, I) with ``batch_first``, (T, I), or a PackedSequence.
        hx: the initial state, as ``torch.nn`` takes it; zeros where None.
        lengths: (B,) how many steps each row takes.
        reset: (T, B) bool, True where a row's state is zeroed before the step.
        mask: the lengths as a mask, (T, B), or (B, T) with ``batch_first``.
        recording: where a trace collects the runs.
        path: the module's path in its model.

    Returns:
        What ``torch.nn`` returns: the output, and h_n or (h_n, c_n).

    Raises:
        ShapeError: an input or state of the wrong shape, or T = 0.
        DtypeError: an input or state of another dtype than the weights.
        DeviceError: an input or state on another device than the weights, or weights on two.
        InputTypeError: an input or state of the wrong type.
        InputValueError: lengths outside 1…T, or a mask that is not True on each row's first steps.
    """
    weight: Tensor = module.weight_ih_l0  # pyright: ignore[reportAssignmentType]
    _check_together(module, weight)
    if mask is not None:
        lengths = lengths_of(mask, input, lengths, batch_first=module.batch_first)
    batch = to_time_first(
        input,
        weight,
        module.input_size,
        batch_first=module.batch_first,
        lengths=lengths,
        reset=reset,
    )
    widths = state_widths(module)
    runs = module.num_layers * (2 if module.bidirectional else 1)
    parts, x = _initial_parts(module, batch, hx, runs, widths, weight), batch.x
    half = _autocasts(module, weight, recording)
    weights = None
    if half is not None:
        x, weights = x.to(half), {n: w.to(half) for n, w in all_weights(module).items()}
        parts = None if parts is None else tuple(part.to(half) for part in parts)
    masks = (batch.active, batch.reset)
    if recording is None and not torch.compiler.is_compiling():
        found = all_at_once(module, x, parts, weights, masks)
        if found is not None:
            return from_time_first(batch, found[0], module.batch_first), _as_given(batch, found[1])
    drops = module.dropout and module.training
    between = partial(dropout, p=module.dropout, batch=batch) if drops else None
    x, finals = one_by_one(module, masks, x, parts, weights, between, recording, path)
    return from_time_first(batch, x, module.batch_first), _as_given(batch, finals)


def _check_together(module: nn.RNNBase, weight: Tensor) -> None:
    """Raise where a weight is on another device than the first: torch may compute with neither.

    Raises:
        DeviceError: one is.
    """
    for name, other in module._parameters.items():
        if other is not None and other.device != weight.device:
            raise DeviceError(
                f"{name} is on {other.device} but weight_ih_l0 on {weight.device}; move the whole "
                f"layer with .to('{weight.device}')."
            )


def _autocasts(
    module: nn.RNNBase, weight: Tensor, recording: Recording | None
) -> torch.dtype | None:
    """Return the precision that autocast asks for where torch's own module would take it.

    Elsewhere, in a trace, and where the rows' shares are asked for by weight, a layer keeps the
    precision of its weights.
    """
    if recording is not None or torch.compiler.is_compiling() or not is_autocast(weight):
        return None
    if CALLS or COLLECTORS or not follows_autocast(module):
        return None
    return torch.get_autocast_dtype(weight.device.type)


def follows_autocast(module: nn.RNNBase) -> bool:
    """Check whether a module of this package, called by itself, has autocast's precision.

    Inside a trace it keeps that of its weights nevertheless.
    """
    return kernels.follows_autocast(cell_of(module, "l0"))


def _initial_parts(
    module: nn.RNNBase, batch: Batch, hx, runs: int, widths: tuple[int, ...], weight: Tensor
) -> tuple[Tensor, ...] | None:
    """Return the parts of the initial states, each (L·D, B, ·); None stands for zeros."""
    if hx is None:
        return None
    B = batch.x.shape[1]
    parts = (hx,) if len(widths) == 1 else hx
    if len(widths) == 2 and not (isinstance(hx, (tuple, list)) and len(hx) == 2):
        raise InputTypeError(
            f"hx must be the pair (h_0, c_0) for an LSTM; got {type(hx).__name__}."
        )
    names = ("hx",) if len(widths) == 1 else ("h_0", "c_0")
    laid_out = []
    for name, part, width in zip(names, parts, widths, strict=True):
        axes = "L B H" if batch.batched else "L H"
        part = part.to(weight.dtype) if is_autocast(weight) else part
        check_shape(name, part, axes, {"L": runs, "B": B, "H": width}, like=weight)
        laid_out.append(part if batch.batched else part.unsqueeze(1))
    return tuple(laid_out)


def _as_given(batch: Batch, parts: tuple[Tensor, ...]):
    """Return h_n, or (h_n, c_n), with a batch axis if the input had one."""
    if not batch.batched:
        parts = tuple(part.squeeze(1) for part in parts)
    return parts[0] if len(parts) == 1 else parts
