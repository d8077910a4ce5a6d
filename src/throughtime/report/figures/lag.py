"""Norms by lag against both bounds of eq. 7: how far back the gradient lasts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...flow import LayerView, NonFinite, view
from .. import palette
from ..arrange import ByLag, affordable, array, norms_by_lag, spectrum
from ..number_text import number, percent, ratio, steps
from .base import Drawing, guide, label, layout, level, log_axis

__all__ = ["bounds_of", "draw"]

COMPARED = (
    "Compared with where the gradient enters. A finding compares with one step later, since the "
    "way from output to state is no way through time, and may count a few steps more."
)
GROWS = 100  # from so many times its start on, a gradient is said to grow


def draw(layer: LayerView, *, fraction: float = 0.01, bounds: bool = True) -> Drawing:
    """Draw the norms by lag, relative to lag 0, with their spread, horizon and bounds (eq. 7).

    Args:
        layer: the flow of one layer.
        fraction: what the horizon's gradient must still be of lag 0.
        bounds: whether the bounds are drawn, and described; they cost decompositions.
    """
    lags = norms_by_lag(layer)
    profile = array(layer.lag_profile())
    horizon = int(layer.horizon(fraction))
    gain, tight = bounds_of(layer, len(profile) - 1) if bounds else (None, np.zeros(1))
    low, high = _range(lags, profile)
    data = [*_spread(lags, low), _profile(profile, lags)]
    data += _bound_lines(gain, tight)
    data.append(level(fraction, 0, max(len(profile) - 1, 1), f"{percent(fraction)} of the start"))
    data += _marks(lags, low, high)
    grows = np.nanmax(profile, initial=0) > GROWS  # then a horizon says nothing
    return Drawing(
        heading="How far back does the gradient last?",
        caption=_caption(layer, lags, profile, horizon, fraction, gain, tight),
        note=_note(layer, lags, tight, len(profile) - 1) if bounds else COMPARED,
        equations=(4, 6, 7, 8) if bounds else (),
        data=data,
        empty=not np.isfinite(profile).any(),
        layout=layout(
            "steps back (lag t − k)",
            "gradient, compared with its start",
            whole=len(profile),
            xaxis={"rangemode": "tozero", "range": [0, max(len(profile) - 1, 1)]},
            yaxis=log_axis(low, high),
            shapes=[] if grows else [guide("x", horizon)],
            annotations=[] if grows else _labels(horizon, len(profile) - 1),
            showlegend=True,
            hovermode="x unified",
        ),
    )


def bounds_of(layer: LayerView, longest: int) -> tuple[float | None, np.ndarray]:
    """Return log10(β_W·β_f), and log10 Π‖J_j‖₂ over the last 0, 1, 2, … steps of row 0 (eq. 7).

    The first is None where the cell has no such constant. The second may be shorter than
    ``longest`` + 1, because each step costs a singular value decomposition.
    """
    base = view.gain(layer)
    log_gain = None if base is None else math.log10(base) if base > 0 else -math.inf
    last = list(reversed(layer.jacobian_steps))[: min(longest, affordable(layer))]
    norms = [spectrum(layer, t, 0)[0] for t in last]
    with np.errstate(divide="ignore"):
        return log_gain, np.concatenate([[0.0], np.cumsum(np.log10(np.array(norms)))])


def _range(lags: ByLag, profile: np.ndarray) -> tuple[float, float]:
    """Return the decades to show: all that was measured, not all that the bounds run through."""
    seen = np.concatenate([lags.low, lags.high, profile])
    seen = np.log10(seen[np.isfinite(seen) & (seen > 0)])
    low, high = (seen.min(), seen.max()) if len(seen) else (-2, 0)
    low, high = min(low, -2.0), max(high, 0.0)
    room = max(0.07 * (high - low), 0.3)
    return low - room, high + 2.5 * room


def _spread(lags: ByLag, low: float) -> list[dict[str, Any]]:
    """Return the band between the 10 % and the 90 % quantile; a 0 reaches down to the axis."""
    ok = np.isfinite(lags.high) & (lags.high > 0)
    x = np.arange(len(ok))[ok]
    lower = np.where(lags.low > 0, lags.low, 10.0**low if low > -300 else 1e-300)[ok]
    band = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "type": "scatter"}
    return [
        band | {"x": x, "y": lags.high[ok], "showlegend": False, "legendgroup": "spread"},
        band
        | {
            "x": x,
            "y": lower,
            "fill": "tonexty",
            "fillcolor": palette.SPREAD,
            "name": "10–90 % of pairs",
            "legendgroup": "spread",
        },
    ]


def _profile(profile: np.ndarray, lags: ByLag) -> dict[str, Any]:
    y = np.where(np.isfinite(profile) & (profile > 0), profile, np.nan)
    few = {"mode": "lines+markers"} if np.isfinite(y).sum() < 12 else {"mode": "lines"}
    return few | {
        "type": "scatter",
        "x": np.arange(len(y)),
        "y": y,
        "name": "measured, typical",
        "line": {"color": palette.MEASURED, "width": 2.5},
        "hovertemplate": "measured %{y:.2e}<extra></extra>",
    }


def _bound_lines(gain: float | None, tight: np.ndarray) -> list[dict[str, Any]]:
    def line(name: str, logs: np.ndarray, colour: str, dash: str, what: str) -> dict[str, Any]:
        drawn = np.isfinite(logs) & (np.abs(logs) < 300)
        return {
            "type": "scatter",
            "mode": "lines",
            "x": np.arange(len(logs))[drawn],
            "y": 10.0 ** logs[drawn],
            "name": name,
            "line": {"color": colour, "width": 1.75, "dash": dash},
            "hovertemplate": f"{what} %{{y:.2e}}<extra></extra>",
        }

    lines = []
    if len(tight) > 1:  # where no state connects the steps there is none
        lines.append(line("bound Π‖J‖", tight, palette.TIGHT, "dash", "Π‖J‖"))
    if gain is not None:
        logs = gain * np.arange(len(tight))
        lines.append(line("bound (β<sub>W</sub>β<sub>f</sub>)<sup>lag</sup>", logs,
                          palette.BOUND, "dot", "(β_W β_f)^lag"))  # fmt: skip
    return lines


def _marks(lags: ByLag, low: float, high: float) -> list[dict[str, Any]]:
    """Mark lags where half of the pairs or more are exactly 0 or not finite, at the plot's edge."""
    rows = [
        (lags.zero >= 0.5, low, "triangle-down", palette.UNDERFLOW, "exactly 0"),
        (lags.broken >= 0.5, high, "x", palette.NONFINITE, "not finite"),
    ]
    out = []
    for where, edge, symbol, colour, name in rows:
        x = np.nonzero(where)[0]
        if len(x):
            x = x[:: max(len(x) // 40, 1)]
            y = np.full(len(x), 10.0 ** np.clip(edge, -300, 300))
            out.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "x": x,
                    "y": y,
                    "name": name,
                    "cliponaxis": False,
                    "marker": {"symbol": symbol, "size": 8, "color": colour},
                    "hovertemplate": f"lag %{{x}}: {name}<extra></extra>",
                }
            )
    return out


def _labels(horizon: int, longest: int) -> list[dict[str, Any]]:
    side = "right" if horizon > longest / 2 else "left"
    return [
        label(
            f"horizon: {steps(horizon)}",
            x=horizon,
            y=1,
            yref="y domain",
            yanchor="top",
            xanchor=side,
            xshift=-5 if side == "right" else 5,
        )
    ]


def _caption(
    layer: LayerView,
    lags: ByLag,
    profile: np.ndarray,
    horizon: int,
    fraction: float,
    gain: float | None,
    tight: np.ndarray,
) -> str:
    if not np.nansum(lags.pairs):
        return "No loss sends a gradient into this layer, so there is nothing by lag."
    last = int(np.nonzero(lags.pairs)[0][-1])
    shows = _what_it_shows(layer, lags, profile, last, horizon, fraction)
    return "\n".join(filter(None, [shows, _what_the_bounds_say(last, profile, gain, tight)]))


def _what_it_shows(
    layer: LayerView,
    lags: ByLag,
    profile: np.ndarray,
    last: int,
    horizon: int,
    fraction: float,
) -> str:
    dtype, bad = str(layer.norms.dtype), layer.first_nonfinite
    broken = np.nonzero(lags.broken > 0)[0]
    if len(broken):
        return (
            f"From lag {broken[0]} on there are gradients that are not finite (inf, and NaN that "
            f"follows from it). No update made of them can be used: {_begin_with(bad)}."
        )
    if bad is not None:
        return (
            "This is what the rows that stayed finite show. No update made of this batch can be "
            f"used: {_begin_with(bad)}."
        )
    if not np.isfinite(profile[: last + 1]).any():
        return "Every gradient that enters this layer is 0 at its own step: there is no profile."
    end = profile[last]
    zeros = np.nonzero(lags.zero >= 0.5)[0]
    if last == 0:
        return "Only lag 0 was measured: every loss is seen at its own step, none further back."
    if np.nanmax(profile) > GROWS:
        top = int(np.nanargmax(profile))
        return (
            f"The gradient grows on its way back: {steps(top)} back it is typically "
            f"{number(profile[top], 2)} times its start. Early steps drown out the late ones, "
            "and a longer sequence overflows: clip the gradient, or lower the recurrent gain."
        )
    if horizon >= last:
        return (
            f"At the longest lag measured, {steps(last)}, the gradient is typically still "
            f"{percent(end)} of its start. Distance alone does not keep this layer from "
            "learning anything that lies within these steps."
        )
    left = f"{number(end, 2)} of that" if end > 0 else "exactly 0"
    text = (
        f"The gradient falls below {percent(fraction)} of its start after "
        f"{steps(horizon)}; {steps(last)} back it is {left}. A single loss hardly "
        f"reaches what lies more than {steps(horizon)} before it."
    )
    if len(zeros):
        text += (
            f" From lag {zeros[0]} on, half of the pairs or more are exactly 0 in "
            f"{dtype.removeprefix('torch.')}: too small for it, or cut off; nothing arrives."
        )
    return text


def _begin_with(bad: NonFinite | None) -> str:
    """Return what to do first about a number that is not finite; clipping rarely is it."""
    if bad is None:
        return "look at the losses"
    if bad.direction == "backward" and bad.kind == "inf":
        return "lower the gain of W_h, so that the gradient does not grow on its backward pass"
    return f"begin where the first one is, {bad.where}, step {bad.step}"


def _what_the_bounds_say(
    last: int, profile: np.ndarray, gain: float | None, tight: np.ndarray
) -> str:
    text = ""
    if gain is not None:
        base = ratio(gain, 3)
        if gain < -1e-6:
            text = (
                f"β_W·β_f = {base} is below 1, which alone proves that the gradient vanishes: at "
                f"most {ratio(gain * last)} of it can be left at lag {last}."
            )
        elif gain < 1e-6:
            text = (
                "β_W·β_f = 1: the gradient cannot grow; whether it decays, the bound leaves open."
            )
        else:
            text = (
                f"β_W·β_f = {base} is above 1 and allows {ratio(gain * last)} times as much at lag "
                f"{last}; such a bound proves nothing, neither growth nor decay."
            )
    reach = min(last, len(tight) - 1)
    if reach > 0 and np.isfinite(tight[reach]):
        text += (
            f" The product of the Jacobians' own norms allows {ratio(tight[reach])} at lag {reach}"
        )
        closer = gain is not None and tight[reach] < gain * reach - 0.1
        text += "; it is closer, because it knows the states that occurred." if closer else "."
        if np.isfinite(profile[reach]) and profile[reach] > 10 ** tight[reach] * (1 + 1e-3):
            text += (
                " What was measured lies above it because gradient also comes in on the way, from "
                "losses at earlier steps or through the layers above; the bound covers one path."
            )
    return text.strip()


def _note(layer: LayerView, lags: ByLag, tight: np.ndarray, longest: int) -> str:
    notes = []
    if lags.losses < lags.losses_in_all:
        notes.append(f"Spread over {lags.losses} of {lags.losses_in_all} losses.")
    if layer.B > 1:
        notes.append("Bounds of batch row 0, ending at the last step.")
    if len(tight) - 1 < longest:
        notes.append(f"Π‖J‖ is drawn for the last {steps(len(tight) - 1)} only, to save time.")
    return " ".join(notes)
