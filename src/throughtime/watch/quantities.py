"""What is measured of a flow at a monitored step: plain numbers with names that stay."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..diagnosis.findings.coverage import each_step_of
from ..diagnosis.findings.squashed import blocks
from ..diagnosis.look import Look, Seen
from ..diagnosis.per_row import slopes
from ..errors import UnsupportedError
from ..flow.view import least
from ..norms import vector_norm
from .record import LAGS

__all__ = ["PREFIX", "QUANTITIES", "measured", "split_name"]

PREFIX = "throughtime"

# A value's name is throughtime/<layer>/<quantity>.
QUANTITIES: dict[str, str] = {
    "horizon": "the last lag that gets at least 1 % of what lag 0 gets, in steps",
    "coverage": "the share of the steps that get at least 1 % of what the last ones get",
    "growth": "by what factor the gradient's norm changes a step back; below 1 it vanishes",
    "beyond_lag": "the share of the gradient that arrives `lag` or more steps back",
    "saturated": "the share of units or gates at a flat end that does harm, in the worst gate",
    "norm": "the gradient's norm ‖dE/ds‖₂, over all steps and rows of the batch",
}


def measured(look: Look) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Return the numbers by name, and each layer's profile by lag.

    Of several runs of a layer it is the one that reaches the fewest steps. NaN stands where a
    number is not known, or is inf.

    Args:
        look: at the flow of the summed loss; where no lag is known there is no ``beyond_lag``.

    Example:
        >>> model = torch.nn.GRU(3, 5)
        >>> with tt.trace(model) as trace:
        ...     loss = model(torch.randn(30, 2, 3))[0].pow(2).mean()
        >>> values, profile = measured(Look(trace.flow(loss), lag=10))
        >>> list(values)[:3]
        ['throughtime/l0/horizon', 'throughtime/l0/coverage', 'throughtime/l0/growth']
    """
    values: dict[str, float] = {}
    profiles: dict[str, list[float]] = {}
    several = any("@" in seen.name for seen in look.seen)
    shown = set(least(look.flow)) if several else set(look.flow)
    for seen in look.seen:
        if seen.name not in shown:
            continue
        base = seen.name.partition("@")[0] or "model"
        profile = seen.layer.lag_profile()
        for quantity, value in _of_layer(seen, profile, look.lag).items():
            values[f"{PREFIX}/{base}/{quantity}"] = value
        profiles[base] = profile[:LAGS].tolist()
    return values, profiles


def split_name(name: str) -> tuple[str, str] | None:
    """Return the layer and the quantity that a value's name names; None where it is no such name.

    Args:
        name: such as "throughtime/rnn.l0/horizon".

    Example:
        >>> split_name("throughtime/rnn.l0/horizon")
        ('rnn.l0', 'horizon')
    """
    prefix, _, rest = name.partition("/")
    layer, _, quantity = rest.rpartition("/")
    return (layer, quantity) if prefix == PREFIX and layer else None


def _of_layer(seen: Seen, profile: Tensor, lag: int | None) -> dict[str, float]:
    layer = seen.layer
    norm = float(vector_norm(layer.total_norms[1:].flatten()))
    known = math.isfinite(norm)
    found = {
        "horizon": float(layer.horizon()) if known else math.nan,
        "coverage": _coverage(seen) if known else math.nan,
        "growth": _growth(profile) if known else math.nan,
        "saturated": _saturated(seen),
        "norm": norm,
    }
    if lag is not None:
        found["beyond_lag"] = _beyond(profile, lag) if known else math.nan
    return {quantity: found[quantity] for quantity in QUANTITIES if quantity in found}


def _coverage(seen: Seen) -> float:
    each = each_step_of(seen)
    return each.reached / each.steps if each.steps else 0.0


def _growth(profile: Tensor) -> float:
    """Return the factor a step: the slope of the profile's logarithm, by least squares."""
    values = profile.double()[:, None]
    there = (values > 0) & values.isfinite()
    if int(there.sum()) < 3:
        return math.nan
    lag = torch.arange(len(values), device=values.device, dtype=torch.float64)[:, None]
    return math.exp(float(slopes(lag.expand_as(values), values, there)))


def _beyond(profile: Tensor, lag: int) -> float:
    """Return what the lags from ``lag`` on get, of what all get."""
    values = profile.double().nan_to_num(0)
    total = float(values.sum())
    return float(values[lag:].sum()) / total if total else math.nan


def _saturated(seen: Seen) -> float:
    """Return the share of the worst gate's entries; NaN for a cell that is not known inside."""
    try:
        shares = [float(b.harmful().double().mean()) for b in blocks(seen)]
    except UnsupportedError:
        return math.nan
    return max(shares, default=math.nan)
