"""An orthogonal W_h: every singular value the same."""

from __future__ import annotations

import math
from numbers import Real
from typing import TypeVar

import torch
from torch import Generator, nn

from ..diagnosis.paste import CALLS
from ..errors import InputTypeError, InputValueError
from .base import Case, Change, Remedy, plain_weights
from .places import Place
from .weight_blocks import gates_of, recurrent_weights

__all__ = ["ORTHOGONAL", "orthogonal_"]

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
    for weight in recurrent_weights(layer):
        for block in weight.data.chunk(gates):
            # QR knows no half precision.
            wide = torch.promote_types(block.dtype, torch.float32)
            like = torch.empty_like(block, dtype=wide, device=generator and generator.device)
            block.copy_(nn.init.orthogonal_(like, gain, generator=generator))
    return layer


def _fits(case: Case, place: Place) -> bool:
    del case
    try:
        gates_of(place.module)
    except InputTypeError:
        return False
    return plain_weights(place.module)


def _change(case: Case, place: Place) -> Change:
    orthogonal_(place.module, generator=case.generator(place))
    return Change(ORTHOGONAL.line(place.expression, case.lag), names=("orthogonal_",))


ORTHOGONAL = Remedy(
    name="orthogonal",
    against=("vanishes", "explodes", "gradient-overflow", "state-overflow", "saturated"),
    what="An orthogonal W_h, which neither stretches nor shrinks.",
    formula="W_hᵀ W_h = 1, gate by gate",
    source="Saxe, McClelland and Ganguli (2014); Le, Jaitly and Hinton (2015)",
    gains="Plain cells: the bound β_W becomes 1; temporal order at T = 100, 1 of 3 seeds with "
    "tanh. Gated cells: hardly anything, since their gates decide.",
    fits=_fits,
    change=_change,
    call=CALLS["orthogonal"],
)
