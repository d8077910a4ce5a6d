"""Uniform gate initialisation: every time scale from a step to as many steps as there are units."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Generator, nn

from ..diagnosis.paste import CALLS
from ..errors import InputTypeError, InputValueError
from .base import Case, Change, Remedy, plain_weights
from .places import Place
from .weight_blocks import biases, gates_of, has_gates

__all__ = ["UNIFORM_GATES", "uniform_gates_"]

M = TypeVar("M", bound=nn.Module)


def uniform_gates_(layer: M, generator: Generator | None = None) -> M:
    """Draw the biases such that gates start uniformly over (0, 1), and return the layer (eq. 4).

    With u ~ U(1/H, 1 − 1/H), one for each unit::

        LSTM: b_f = ln(u/(1 − u)),  b_i = −b_f          GRU: b_z = ln(u/(1 − u))

    so that σ(b_f) = u. A gate at u keeps for about 1/(1 − u) steps: the longest about H. The other
    biases stay. Refine gates, the second half of the paper, need another cell: `refined`.

    Args:
        layer: an LSTM or GRU of ``torch.nn`` or of this package, or such a cell.
        generator: for reproducible draws.

    Returns:
        ``layer`` itself.

    Raises:
        InputTypeError: ``layer`` has no gates.
        InputValueError: it has no biases, or fewer than 3 units.

    Source:
        Gu, Gulcehre, Paine, Hoffman and Pascanu (2020), "Improving the gating mechanism of
        recurrent neural networks", section 3.

    Example:
        >>> layer = uniform_gates_(torch.nn.LSTM(3, 50))
        >>> f = (layer.bias_ih_l0 + layer.bias_hh_l0)[50:100].sigmoid()
        >>> bool(f.min() > 0.019), bool(f.max() < 0.981)
        (True, True)
    """
    if gates_of(layer) == 1:
        raise InputTypeError(f"{type(layer).__name__} has no gates. Use an LSTM or a GRU.")
    found = list(biases(layer))
    if any(bias.numel() // gates < 3 for gates, bias, _ in found):
        raise InputValueError(
            "uniform gates need at least 3 units, since u lies between 1/H and 1 − 1/H."
        )
    for gates, bias_ih, bias_hh in found:
        H = bias_ih.numel() // gates
        where = generator.device if generator else "cpu"
        u = torch.rand(H, generator=generator, device=where, dtype=torch.float64)
        b = torch.logit(u * (1 - 2 / H) + 1 / H).to(bias_ih)
        with torch.no_grad():
            bias_ih[H : 2 * H], bias_hh[H : 2 * H] = b, 0
            if gates == 4:
                bias_ih[:H], bias_hh[:H] = -b, 0
    return layer


def _fits(case: Case, place: Place) -> bool:
    del case
    if not has_gates(place.module) or not plain_weights(place.module):
        return False
    return all(bias.numel() // gates >= 3 for gates, bias, _ in biases(place.module))


def _change(case: Case, place: Place) -> Change:
    uniform_gates_(place.module, case.generator(place))
    return Change(UNIFORM_GATES.line(place.expression, case.lag), names=("uniform_gates_",))


UNIFORM_GATES = Remedy(
    name="uniform-gates",
    against=("vanishes", "underflow"),
    what="Gates that start at every time scale, for lags that are not known.",
    formula="b_f = ln(u/(1 − u)), b_i = −b_f, u ~ U(1/H, 1 − 1/H); GRU: b_z = ln(u/(1 − u))",
    source="Gu, Gulcehre, Paine, Hoffman and Pascanu (2020), Improving the gating mechanism of "
    "recurrent neural networks, section 3",
    gains="Temporal order at T = 100: GRU 3 of 3 seeds, LSTM 1 of 3; without, 0 of 3. "
    "For the paper's refine gates see refine-gates.",
    fits=_fits,
    change=_change,
    call=CALLS["uniform-gates"],
)
