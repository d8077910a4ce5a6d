"""What a layer accepts: padded or packed, batched or not; checked once, here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from .. import kernels
from ..errors import (
    DeviceError,
    DtypeError,
    InputTypeError,
    InputValueError,
    ShapeError,
    UnsupportedError,
)
from ..shapes import check_lengths, check_shape
from ..torch_state import is_autocast, is_exported

__all__ = ["Batch", "dropout", "from_time_first", "length_mask", "lengths_of", "to_time_first"]


class Batch(NamedTuple):
    """An input in the layout of the sweeps, and how to give the output back as it came.

    Attributes:
        x: (T, B, I).
        active: (T, B) bool, or None where every row takes every step.
        reset: (T, B) bool within ``active``, or None.
        batched: False where the caller gave no batch axis.
        packed: the caller's packed sequence, if it was one.
    """

    x: Tensor
    active: Tensor | None
    reset: Tensor | None
    batched: bool
    packed: PackedSequence | None


def to_time_first(
    input: Tensor | PackedSequence,
    weight: Tensor,
    input_size: int,
    *,
    batch_first: bool,
    lengths: Tensor | Sequence[int] | None,
    reset: Tensor | None,
) -> Batch:
    """Check a layer's input and lay it out as (T, B, I).

    Raises:
        InputTypeError: ``input`` is neither a tensor nor a PackedSequence.
        ShapeError: wrong rank or size, or no time step at all.
        DtypeError: another dtype than the weights'.
        DeviceError: another device than the weights'.
        InputValueError: lengths outside 1…T, or lengths beside a PackedSequence.
        UnsupportedError: a PackedSequence, and an exporter is at work.
    """
    if isinstance(input, PackedSequence):
        if is_exported():
            raise UnsupportedError(
                "the rows and steps of a PackedSequence are values, which an exporter cannot look "
                "at. Give the layer the padded input with lengths=, which may both stay open."
            )
        if lengths is not None:
            raise InputValueError(
                "lengths= was given beside a PackedSequence, which has its own; drop one of them."
            )
        check_shape("input.data", _cast(input.data, weight), "N I", {"I": input_size}, like=weight)
        x, active = _unpack(input, weight)
        return Batch(x, active, _check_reset(reset, x, active), True, input)
    if not isinstance(input, Tensor):
        raise InputTypeError(
            f"input must be a tensor or a PackedSequence; got {type(input).__name__}."
        )
    if input.dim() not in (2, 3):
        order = "B T I" if batch_first else "T B I"
        raise ShapeError(
            f"input must have 3 axes ({order}), or 2 (T I) without a batch; got {input.dim()}: "
            f"shape {tuple(input.shape)}."
        )
    batched = input.dim() == 3
    x = _cast(input, weight)
    axes = "T I" if not batched else "B T I" if batch_first else "T B I"
    check_shape("input", x, axes, {"I": input_size}, like=weight)
    x = x.unsqueeze(1) if not batched else x.transpose(0, 1) if batch_first else x
    if x.shape[0] == 0:
        raise ShapeError(f"input must have at least one time step; got T=0: {tuple(input.shape)}.")
    active = None if lengths is None else _active(lengths, x)
    return Batch(x, active, _check_reset(reset, x, active), batched, None)


def from_time_first(batch: Batch, h: Tensor, batch_first: bool) -> Tensor | PackedSequence:
    """Return a layer's output (T, B, ·) in the layout its input had."""
    if batch.packed is not None:
        p = batch.packed
        if p.sorted_indices is not None:
            h = h.index_select(1, p.sorted_indices)
        data = h[_packed_mask(p, h.device)]
        return PackedSequence(data, p.batch_sizes, p.sorted_indices, p.unsorted_indices)
    if not batch.batched:
        return h.squeeze(1)
    return h.transpose(0, 1) if batch_first else h


def dropout(x: Tensor, p: float, batch: Batch) -> Tensor:
    """Drop units between layers, drawing what ``torch.nn`` would draw from the same seed.

    For a PackedSequence that is one number for each unit of its data, not of the padded layout.
    """
    if batch.packed is None:
        return torch.nn.functional.dropout(x, p, True)
    packed = batch.packed
    kept = torch.nn.functional.dropout(x.new_ones(packed.data.shape[0], x.shape[-1]), p, True)
    laid_out, _ = _unpack(packed._replace(data=kept), x)
    return x * laid_out


def _cast(x: Tensor, weight: Tensor) -> Tensor:
    """Under autocast an upstream layer puts out half precision; the sweep keeps the weights'."""
    if x.dtype is weight.dtype:
        return x
    if is_autocast(weight) and x.is_floating_point():
        return x.to(weight.dtype)
    return x


def _packed_mask(packed: PackedSequence, device: torch.device) -> Tensor:
    sizes = packed.batch_sizes.to(device)
    return torch.arange(int(packed.batch_sizes[0]), device=device) < sizes[:, None]


def _unpack(packed: PackedSequence, weight: Tensor) -> tuple[Tensor, Tensor]:
    mask = _packed_mask(packed, packed.data.device)
    data = _cast(packed.data, weight)
    x = data.new_zeros(*mask.shape, data.shape[1]).index_put(mask.nonzero(as_tuple=True), data)
    if packed.unsorted_indices is not None:
        x = x.index_select(1, packed.unsorted_indices)
        mask = mask.index_select(1, packed.unsorted_indices)
    return x, mask


def _active(lengths: Tensor | Sequence[int], x: Tensor) -> Tensor:
    """Return the mask (T, B) of the steps that rows of these lengths take."""
    T, B, _ = x.shape
    return length_mask(check_lengths(lengths, B, T), x)


def length_mask(steps: Tensor | Iterable[int], x: Tensor) -> Tensor:
    """Return the mask (T, B) of the first ``steps`` (B,) of each row of x, known to the kernels."""
    steps = steps if isinstance(steps, Tensor) else torch.tensor(list(steps), device=x.device)
    active = torch.arange(x.shape[0], device=x.device)[:, None] < steps.to(x.device)
    if not torch.compiler.is_compiling():
        kernels.know(active, steps)
    return active


def lengths_of(
    steps: Tensor, input: Tensor | PackedSequence, lengths: object, *, batch_first: bool
) -> Tensor:
    """Return how many steps each row takes (B,), from a mask that says which.

    Args:
        steps: bool, True on the first steps of each row: (B, T) with ``batch_first``, else (T, B).
        input: what it stands beside.
        lengths: what was given as ``lengths=``.
        batch_first: whether rows come first.

    Raises:
        InputTypeError: ``steps`` is no tensor.
        DtypeError: it is not bool.
        ShapeError: it has other steps or rows than the input.
        InputValueError: a row takes a step after one that it does not take, or none; or there are
            lengths as well.
    """
    axes = "(B, T)" if batch_first else "(T, B)"
    if not isinstance(steps, Tensor):
        raise InputTypeError(f"mask must be a bool tensor {axes}; got {type(steps).__name__}.")
    if steps.dtype != torch.bool:
        raise DtypeError(f"mask must be bool; got {steps.dtype}. Say mask.bool().")
    if lengths is not None or isinstance(input, PackedSequence):
        beside = "lengths=" if lengths is not None else "a PackedSequence"
        raise InputValueError(f"mask= was given beside {beside}, which says the same; drop one.")
    if isinstance(input, Tensor) and (input.dim() != 3 or steps.shape != input.shape[:2]):
        raise ShapeError(
            f"mask must be {axes} as the input, which has {tuple(input.shape)}; got "
            f"{tuple(steps.shape)}."
        )
    time_first = steps.t() if batch_first else steps
    taken = time_first.sum(0)
    if not torch.compiler.is_compiling():  # a compiler cannot look at values
        at = torch.arange(len(time_first), device=steps.device)[:, None]
        if not torch.equal(at < taken, time_first):
            raise InputValueError(
                "mask must be True on the first steps of each row and False on the rest, as for "
                "padded rows; got a row with a step after one that it does not take. Where an "
                "episode ends within a row give reset=."
            )
    return taken


def _check_reset(reset: Tensor | None, x: Tensor, active: Tensor | None) -> Tensor | None:
    if reset is None:
        return None
    if not isinstance(reset, Tensor):
        raise InputTypeError(f"{_wanted(x)}; got {type(reset).__name__}.")
    if reset.dtype != torch.bool:
        raise DtypeError(f"{_wanted(x)}; got {reset.dtype}.")
    if tuple(reset.shape) != tuple(x.shape[:2]):
        raise ShapeError(f"{_wanted(x)}; got shape {tuple(reset.shape)}.")
    if reset.device != x.device:
        raise DeviceError(f"reset is on {reset.device} but the input is on {x.device}.")
    return reset if active is None else reset & active


def _wanted(x: Tensor) -> str:
    """Return what a reset mask must be; only where it is not, since text fixes an open size."""
    T, B, _ = x.shape
    return f"reset must be a bool tensor (T={T}, B={B}), time first also with batch_first"
