"""Chrono initialisation: gate biases that remember over the lags a task has."""

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
from .weight_blocks import biases, gates_of, has_gates

__all__ = ["CHRONO", "chrono_"]

M = TypeVar("M", bound=nn.Module)


def chrono_(layer: M, longest: int, generator: Generator | None = None) -> M:
    """Set gate biases for lags up to T_max (eq. 4), and return the layer.

    A gate f that stays at σ(b) forgets with a time constant of 1/(1 − σ(b)) = 1 + e^b steps.
    With that time drawn over the task's lags::

        LSTM: b_f = ln u,  b_i = −b_f,  u ~ U(1, T_max − 1);  the other two biases 0
        GRU:  b_z = ln u  (PyTorch's z is what is kept);      the other two as they are

    PyTorch adds two biases; the second one's share of these gates is set to 0, so that the sum is
    the value above.

    Args:
        layer: an LSTM or GRU of ``torch.nn`` or of this package, or such a cell.
        longest: T_max, at least 3.
        generator: for reproducible draws.

    Returns:
        ``layer`` itself.

    Raises:
        InputTypeError: ``layer`` has no gates, or ``longest`` is no number.
        InputValueError: ``longest`` below 3 or not finite, or the layer has no biases. Nothing
            was written.

    Source:
        Tallec and Ollivier (2018), "Can recurrent neural networks warp time?", section 2.

    Example:
        >>> layer = chrono_(torch.nn.LSTM(3, 4), longest=100)
        >>> b = (layer.bias_ih_l0 + layer.bias_hh_l0).view(4, 4)   # i, f, g, o
        >>> bool((b[1] == -b[0]).all()), bool((b[1] >= 0).all())
        (True, True)
    """
    number = isinstance(longest, Real) and not isinstance(longest, bool)
    if not number or not 3 <= longest < math.inf:
        raise (InputValueError if number else InputTypeError)(
            f"longest must be a finite number of steps, at least 3; got {longest!r}."
        )
    if gates_of(layer) == 1:
        raise InputTypeError(
            f"chrono initialisation sets the biases of gates; {type(layer).__name__} has "
            "none. Use an LSTM or a GRU, or orthogonal_."
        )
    for gates, bias_ih, bias_hh in list(biases(layer)):  # all looked at before any is written
        H = bias_ih.numel() // gates
        where = generator.device if generator else "cpu"
        u = torch.rand(H, generator=generator, device=where).to(bias_ih) * (longest - 2) + 1
        with torch.no_grad():
            if gates == 4:
                bias_ih.zero_()
                bias_hh.zero_()
                bias_ih[H : 2 * H] = u.log()
                bias_ih[:H] = -u.log()
            else:
                bias_ih[H : 2 * H] = u.log()
                bias_hh[H : 2 * H] = 0
    return layer


def _fits(case: Case, place: Place) -> bool:
    return case.lag >= 2 and has_gates(place.module) and plain_weights(place.module)


def _change(case: Case, place: Place) -> Change:
    longest = max(3, case.lag)
    chrono_(place.module, longest, case.generator(place))
    return Change(CHRONO.line(place.expression, longest), names=("chrono_",))


CHRONO = Remedy(
    name="chrono",
    against=("vanishes", "underflow"),
    what="Gate biases for lags up to the one that is needed.",
    formula="b_f = ln u, b_i = −b_f, u ~ U(1, T_max − 1); GRU: b_z = ln u",
    source="Tallec and Ollivier (2018), Can recurrent neural networks warp time?, section 2",
    gains="Temporal order at T = 100: 3 of 3 seeds learnt, 0 of 3 without (LSTM and GRU). "
    "Not what is cut off by wiring, padding or saturated gates.",
    fits=_fits,
    change=_change,
    call=CALLS["chrono"],
)
