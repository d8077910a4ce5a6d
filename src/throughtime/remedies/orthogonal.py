"""An orthogonal W_h: every singular value the same."""

from __future__ import annotations

import math
from numbers import Real
from typing import TypeVar

import torch
from torch import Generator, nn

from ..errors import InputTypeError, InputValueError
from .blocks import gates_of, suffixes

__all__ = ["orthogonal_"]

M = TypeVar("M", bound=nn.Module)


def orthogonal_(layer: M, gain: float = 1.0, generator: Generator | None = None) -> M:
    """Set W_h to ``gain`` times an orthogonal matrix, gate by gate, and return the layer (eq. 6).

    Then β_W = ``gain``, and with a linear f every singular value of every J_t is ``gain`` too.

    Args:
        layer: an RNN, LSTM or GRU of ``torch.nn`` or of this package, or such a cell.
        gain: of every singular value.
        generator: for reproducible draws, on any device.

    Returns:
        ``layer`` itself.

    Raises:
        InputTypeError: ``layer`` is no such layer, or ``gain`` no number.
        InputValueError: ``gain`` is not above 0, or not finite. Nothing was written.

    Cost:
        one QR decomposition of H × H a gate.

    Source:
        Saxe, McClelland and Ganguli (2014); for RNNs Le, Jaitly and Hinton (2015).

    Example:
        >>> layer = orthogonal_(torch.nn.RNN(3, 4, dtype=torch.float64), gain=2)
        >>> torch.linalg.svdvals(layer.weight_hh_l0).round().tolist()
        [2.0, 2.0, 2.0, 2.0]
    """
    number = isinstance(gain, Real) and not isinstance(gain, bool)
    if not number or not 0 < gain < math.inf:
        raise (InputValueError if number else InputTypeError)(
            f"gain must be a finite number above 0; got {gain!r}."
        )
    gates = gates_of(layer)
    for suffix in suffixes(layer):
        for block in getattr(layer, f"weight_hh{suffix}").data.chunk(gates):
            # QR knows no half precision.
            wide = torch.promote_types(block.dtype, torch.float32)
            like = torch.empty_like(block, dtype=wide, device=generator and generator.device)
            block.copy_(nn.init.orthogonal_(like, gain, generator=generator))
    return layer
