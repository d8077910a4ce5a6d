"""The gain of W_h at which the leading Lyapunov exponent is 0 on the user's own batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..errors import InputTypeError, InputValueError, UnsupportedError
from .base import Case, Change, Remedy, copied, flow_of, plain_weights
from .places import Place
from .weight_blocks import gates_of, is_plain, recurrent_weights

__all__ = ["EDGE", "edge_gain", "scale_recurrent_"]

M = TypeVar("M", bound=nn.Module)
# The exponent is measured over so many rows of the batch, and brought this near to 0, in nats.
ROWS, NEAR = 8, 0.003


def scale_recurrent_(layer: M, *gains: float) -> M:
    """Multiply W_h by a gain, and return the layer (eq. 4).

    Args:
        layer: an RNN, LSTM or GRU of ``torch.nn`` or of this package, or such a cell.
        gains: one for all layers and directions, or one for each.

    Returns:
        ``layer`` itself.

    Raises:
        InputTypeError: ``layer`` is no such layer, or a gain is no number.
        InputValueError: a gain is not finite and above 0, or there are too few or too many.

    Example:
        >>> layer = torch.nn.RNN(3, 4)
        >>> before = layer.weight_hh_l0.clone()
        >>> bool((scale_recurrent_(layer, 2.0).weight_hh_l0 == 2 * before).all())
        True
    """
    gates_of(layer)  # says so where it is no such layer
    weights = recurrent_weights(layer)
    if len(gains) not in {1, len(weights)}:
        raise InputValueError(f"give one gain, or one for each of {len(weights)}; got {gains}.")
    for gain in gains:
        if not isinstance(gain, Real) or isinstance(gain, bool):
            raise InputTypeError(f"a gain must be a number; got {gain!r}.")
        if not 0 < gain < math.inf:
            raise InputValueError(f"a gain must be finite and above 0; got {gain!r}.")
    for i, weight in enumerate(weights):
        with torch.no_grad():
            weight.mul_(gains[i if len(gains) > 1 else 0])
    return layer


def edge_gain(exponent: Callable[[float], float], most: float = 64.0) -> float:
    """Return the gain at which an exponent is 0, by bisection of its logarithm.

    Args:
        exponent: of a gain, in nats a step; below 0 for small gains.
        most: the largest gain tried, and 1/most the smallest.

    Raises:
        UnsupportedError: it has one sign over all gains that were tried, or is not finite.

    Example:
        >>> round(edge_gain(lambda gain: math.log(gain / 3)), 1)
        3.0
    """
    low = high = 1.0
    at = exponent(1.0)
    nearest = (abs(at), at, 1.0)
    while low == high:
        if not math.isfinite(at) or not 1 / most <= low <= most:
            raise UnsupportedError(
                f"no gain between 1/{most:.0f} and {most:.0f} brings the leading exponent to 0: "
                f"the nearest is {nearest[1]:.2g} nats a step, at a gain of {nearest[2]:.3g}."
            )
        nearest = min(nearest, (abs(at), at, low))
        further = low * (1.6 if at < 0 else 1 / 1.6)
        then = exponent(further)
        if (then < 0) != (at < 0):
            low, high = sorted((low, further))
        else:
            low = high = further
            at = then
    middle = math.sqrt(low * high)
    for _ in range(30):
        at = exponent(middle)
        if abs(at) < NEAR:
            break
        low, high = (middle, high) if at < 0 else (low, middle)
        middle = math.sqrt(low * high)
    return middle


def _fits(case: Case, place: Place) -> bool:
    del case
    return is_plain(place.module) and plain_weights(place.module)


def _change(case: Case, place: Place) -> Change:
    """Find the gains from the lowest layer up: what a layer reads depends on those below."""
    weights = recurrent_weights(place.module)
    names = [name for name in place.layers if "@" not in name]
    gains = [1.0] * len(weights)
    for i, name in enumerate(names[: len(weights)]):
        model = copied(case.model)
        weight = recurrent_weights(model.get_submodule(place.path))[i].data
        gains[i] = float(f"{edge_gain(_exponent(case, model, weight, name)):.4g}")
        with torch.no_grad():
            weights[i].mul_(gains[i])
    found = ", ".join(f"{gain:g}" for gain in gains)
    return Change(f"scale_recurrent_({place.expression}, {found})", names=("scale_recurrent_",))


def _exponent(case: Case, model: nn.Module, weight: Tensor, name: str) -> Callable[[float], float]:
    """Return λ₁ of one layer as a function of the gain of its W_h, measured on the batch."""
    plain = weight.clone()

    def exponent(gain: float) -> float:
        weight.copy_(gain * plain)
        layer = flow_of(model, case.losses, last_only=True)[name]
        return float(layer.lyapunov(1, rows=range(min(ROWS, layer.B))).mean())

    return exponent


EDGE = Remedy(
    name="edge-gain",
    against=("vanishes", "explodes", "gradient-overflow", "saturated"),
    what="W_h scaled to the edge: the leading exponent is 0 on this batch.",
    formula="W_h ← g W_h with λ₁(g) = 0, measured",
    source="Bertschinger and Natschläger (2004); Poole et al. (2016); Schoenholz et al. (2017)",
    gains="Plain cells over some hundred steps. Where inputs saturate the units no gain does it; "
    "training moves away from the edge.",
    fits=_fits,
    change=_change,
)
