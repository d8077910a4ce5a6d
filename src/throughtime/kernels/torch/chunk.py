"""Weights in one piece of memory, as cuDNN wants them.

Where they lie apart torch copies them together in every call, and warns. A module that is moved to
a GPU is laid out so by `nn.RNNBase`; what is not, as one layer of several or what autocast made, is
copied here, and the parameters stay where they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ... import torch_state
from ...cells import GRU, LSTM, AbstractCell, Elman

__all__ = ["RNNDescriptor", "flatten", "in_one_chunk", "is_one_chunk", "together"]

ORDER = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
PADDING = 64  # numbers that may lie between one weight and the next


class RNNDescriptor(NamedTuple):
    """What cuDNN has to know of a module.

    Attributes:
        mode: as `nn.RNNBase` calls it.
        I: the width of x.
        H: the width of a gate.
        P: the width of h where it is projected; otherwise 0.
        layers: how many layers.
        both: whether there are both directions.
    """

    mode: str
    I: int
    H: int
    P: int
    layers: int = 1
    both: bool = False

    @classmethod
    def of(cls, cell: AbstractCell) -> RNNDescriptor:
        """Return that of one layer in one direction."""
        if type(cell) is Elman:
            mode = f"RNN_{cell.nonlinearity.upper()}"
        else:
            mode = {LSTM: "LSTM", GRU: "GRU"}[type(cell)]  # pyright: ignore[reportArgumentType]
        H = getattr(cell, "cell_size", cell.hidden_size)
        return cls(mode, cell.input_size, H, cell.hidden_size if cell.hidden_size != H else 0)


def in_one_chunk(cell: AbstractCell, x: Tensor) -> tuple[Tensor, ...]:
    """Return a cell's weights as they are; on a GPU in one chunk, copied where they are not.

    Args:
        cell: the recurrence.
        x: what they will meet.
    """
    weights = cell.weights()
    ordered = {name: weights[name] for name in ORDER if name in weights}
    found = dict(
        zip(ordered, together(list(ordered.values()), RNNDescriptor.of(cell), x), strict=True)
    )
    return tuple(found[name] for name in weights)


def together(weights: list[Tensor], shape: RNNDescriptor, x: Tensor) -> list[Tensor]:
    """Return weights as they are; on a GPU in one chunk, copied where they are not.

    Args:
        weights: in torch's order.
        shape: of their module.
        x: what they will meet.
    """
    if not torch_state.is_on_gpu(x) or is_one_chunk(weights) or not _wants_chunks(weights[0]):
        return weights
    return list(_Together.apply(shape, *weights))  # pyright: ignore


class _Together(torch.autograd.Function):
    """Copies in one chunk; a copy's gradient is the weight's."""

    @staticmethod
    def forward(ctx: Any, shape: RNNDescriptor, *weights: Tensor) -> tuple[Tensor, ...]:
        """Copy."""
        del ctx
        # With a version count of their own, since they are given other memory.
        copies = [weight.data for weight in weights]
        flatten(copies, shape)
        return tuple(copies)

    @staticmethod
    def backward(ctx: Any, *g: Tensor | None) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Hand on."""
        return None, *g


def is_one_chunk(weights: Sequence[Tensor]) -> bool:
    """Check whether tensors share one piece of memory, and nothing else lies there."""
    whole = weights[0].untyped_storage()
    if any(weight.untyped_storage().data_ptr() != whole.data_ptr() for weight in weights):
        return False
    size = weights[0].itemsize
    spare = whole.nbytes() // size - sum(weight.numel() for weight in weights)
    return 0 <= spare <= PADDING * len(weights) and all(w.is_contiguous() for w in weights)


def flatten(weights: list[Tensor], shape: RNNDescriptor) -> None:
    """Move weights into one chunk; each tensor stays the object that it is."""
    import torch.backends.cudnn.rnn as cudnn

    both = shape.both
    each = len(weights) // (shape.layers * (2 if both else 1))
    mode = cudnn.get_cudnn_mode(shape.mode)
    with torch.no_grad(), torch.cuda.device_of(weights[0]):
        torch._cudnn_rnn_flatten_weight(  # pyright: ignore[reportPrivateImportUsage]
            weights, each, shape.I, mode, shape.H, shape.P, shape.layers, False, both
        )


def _wants_chunks(weight: Tensor) -> bool:
    if not torch.backends.cudnn.is_acceptable(weight):
        return False
    return torch._use_cudnn_rnn_flatten_weight()  # pyright: ignore[reportPrivateImportUsage]
