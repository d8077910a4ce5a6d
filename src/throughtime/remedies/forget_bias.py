"""The forget gate's bias: 1 at the beginning, so that a unit keeps for longer."""

from __future__ import annotations

import math
from numbers import Real
from typing import TypeVar

import torch
from torch import nn

from ..diagnosis.paste import CALLS
from ..errors import InputTypeError, InputValueError
from .base import Case, Change, Remedy, plain_weights
from .places import Place
from .weight_blocks import biases, gates_of, has_gates

__all__ = ["FORGET_BIAS", "forget_bias_"]

M = TypeVar("M", bound=nn.Module)


def forget_bias_(layer: M, value: float = 1.0) -> M:
    """Set the bias of the gate that keeps, and return the layer (eq. 4).

    That is f of an LSTM, and z of a GRU in PyTorch's sense. A gate at σ(1) = .73 instead of .5
    keeps half over 2.2 steps instead of 1. PyTorch adds two biases; the second is set to 0, so that
    the sum is ``value``.

    Args:
        layer: an LSTM or GRU of ``torch.nn`` or of this package, or such a cell.
        value: the bias.

    Returns:
        ``layer`` itself.

    Raises:
        InputTypeError: ``layer`` has no gates, or ``value`` is no number.
        InputValueError: ``value`` is not finite, or the layer has no biases.

    Source:
        Jozefowicz, Zaremba and Sutskever (2015), section 4.3; of an LSTM. Of a GRU by analogy.

    Example:
        >>> layer = forget_bias_(torch.nn.LSTM(3, 2))
        >>> (layer.bias_ih_l0 + layer.bias_hh_l0)[2:4].tolist()
        [1.0, 1.0]
    """
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not math.isfinite(value):
        raise (InputValueError if number else InputTypeError)(
            f"value must be a finite number; got {value!r}."
        )
    if gates_of(layer) == 1:
        raise InputTypeError(
            f"{type(layer).__name__} has no forget gate. Use an LSTM or a GRU, or orthogonal_."
        )
    for gates, bias_ih, bias_hh in list(biases(layer)):
        H = bias_ih.numel() // gates
        with torch.no_grad():
            bias_ih[H : 2 * H] = value
            bias_hh[H : 2 * H] = 0
    return layer


def _fits(case: Case, place: Place) -> bool:
    del case
    return has_gates(place.module) and plain_weights(place.module)


def _change(case: Case, place: Place) -> Change:
    forget_bias_(place.module)
    return Change(FORGET_BIAS.line(place.expression, case.lag), names=("forget_bias_",))


FORGET_BIAS = Remedy(
    name="forget-bias",
    against=("vanishes",),
    what="A forget bias of 1, for lags of tens of steps.",
    formula="b_f = 1; GRU: b_z = 1",
    source="Jozefowicz, Zaremba and Sutskever (2015), An empirical exploration of recurrent "
    "network architectures, section 4.3",
    gains="An LSTM over tens of steps. Temporal order at T = 100: 0 of 3 seeds, as without.",
    fits=_fits,
    change=_change,
    call=CALLS["forget-bias"],
)
