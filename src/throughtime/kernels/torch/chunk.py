"""A cell's weights in one piece of memory, as cuDNN wants them.

Where they lie apart torch copies them together in every call, and warns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ... import torch_state
from ...cells import GRU, LSTM, AbstractCell, Elman

__all__ = ["flatten", "in_one_chunk", "is_one_chunk"]

ORDER = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")


def in_one_chunk(cell: AbstractCell, x: Tensor) -> tuple[Tensor, ...]:
    """Return a cell's weights as they are; on a GPU in one chunk, copied where they are not.

    Args:
        cell: the recurrence.
        x: what they will meet.
    """
    weights = cell.weights()
    if not torch_state.is_on_gpu(x):
        return tuple(weights.values())
    ordered = [weights[name] for name in ORDER if name in weights]
    if is_one_chunk(ordered) or not _wants_chunks(ordered[0]):
        return tuple(weights.values())
    copies = {name: weight.data for name, weight in weights.items()}
    flatten(cell, [copies[name] for name in ORDER if name in copies])
    return tuple(copies.values())


def is_one_chunk(weights: Sequence[Tensor]) -> bool:
    """Check whether tensors lie one behind the other, from the beginning of their memory.

    Args:
        weights: in cuDNN's order.
    """
    at = weights[0].untyped_storage().data_ptr()
    for weight in weights:
        if weight.data_ptr() != at or not weight.is_contiguous():
            return False
        at += weight.numel() * weight.itemsize
    return True


def flatten(cell: AbstractCell, weights: list[Tensor]) -> None:
    """Move a cell's weights into one chunk; each tensor stays the object that it is.

    Args:
        cell: the recurrence.
        weights: in cuDNN's order.
    """
    import torch.backends.cudnn.rnn as cudnn

    H = weights[1].shape[0] // cell.gates  # pyright: ignore
    P = cell.hidden_size if cell.hidden_size != H else 0
    with torch.no_grad(), torch.cuda.device_of(weights[0]):
        torch._cudnn_rnn_flatten_weight(
            weights, len(weights), cell.input_size, cudnn.get_cudnn_mode(_mode(cell)), H, P, 1,
            False, False,
        )  # fmt: skip


def _wants_chunks(weight: Tensor) -> bool:
    return torch.backends.cudnn.is_acceptable(weight) and torch._use_cudnn_rnn_flatten_weight()


def _mode(cell: AbstractCell) -> str:
    if type(cell) is Elman:
        return f"RNN_{cell.nonlinearity.upper()}"
    return {LSTM: "LSTM", GRU: "GRU"}[type(cell)]  # pyright: ignore[reportArgumentType]
