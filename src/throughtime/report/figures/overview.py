"""All layers of a flow on one pair of axes: which of them is the one that forgets."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...flow import LayerView
from .. import palette
from ..arrange import array
from ..number_text import percent, steps
from .base import Drawing, layout, level, log_axis

__all__ = ["draw"]


def draw(flow: Mapping[str, LayerView], *, fraction: float = 0.01) -> Drawing:
    """Draw the lag profile of every layer of a flow on one pair of axes (eq. 7).

    Args:
        flow: a Flow.
        fraction: what the horizon's gradient must still be of lag 0.
    """
    profiles = {name: array(layer.lag_profile()) for name, layer in flow.items()}
    horizons = {name: int(layer.horizon(fraction)) for name, layer in flow.items()}
    broken = [name for name, layer in flow.items() if layer.first_nonfinite is not None]
    seen = np.concatenate(list(profiles.values())) if profiles else np.zeros(0)
    seen = np.log10(seen[np.isfinite(seen) & (seen > 0)])
    low, high = (min(seen.min(), -2.0), max(seen.max(), 0.0)) if len(seen) else (-2.0, 0.0)
    room = max(0.06 * (high - low), 0.2)
    data = []
    for i, (name, profile) in enumerate(profiles.items()):
        y = np.where(np.isfinite(profile) & (profile > 0), profile, np.nan)
        data.append(
            {
                "type": "scatter",
                "mode": "lines" if len(y) > 12 else "lines+markers",
                "x": np.arange(len(y)),
                "y": y,
                "name": name,
                "line": {
                    "color": palette.COLORWAY[i % len(palette.COLORWAY)],
                    "width": 2.25,
                    "dash": palette.DASHES[i % len(palette.DASHES)],
                },
                "hovertemplate": f"{name} %{{y:.2e}}<extra></extra>",
            }
        )
    longest = max(map(len, profiles.values()), default=1) - 1
    data.append(level(fraction, 0, max(longest, 1), f"{percent(fraction)} of the start"))
    return Drawing(
        heading="How far back does the gradient reach in each layer?",
        caption=_caption(horizons, profiles, broken),
        equations=(4, 7),
        data=data,
        layout=layout(
            "steps back (lag t − k)",
            "gradient, compared with its start",
            whole=longest + 1,
            xaxis={"rangemode": "tozero"},
            yaxis=log_axis(low - room, high + room),
            showlegend=True,
            hovermode="x unified",
        ),
        height=340,
    )


def _caption(horizons: dict[str, int], profiles: dict[str, np.ndarray], broken: list[str]) -> str:
    measured = {name: np.flatnonzero(~np.isnan(profile)) for name, profile in profiles.items()}
    longest = {name: int(lags[-1]) if len(lags) else 0 for name, lags in measured.items()}
    if broken:
        return (
            f"{_names(broken)} {'has' if len(broken) == 1 else 'have'} values that are inf or NaN. "
            "Begin there: what the other layers show may rest on numbers that passed through it."
        )
    if len(horizons) < 2:
        return "There is one layer, and this is how far its gradient lasts."
    short = min(horizons, key=lambda name: horizons[name])
    far = max(horizons, key=lambda name: horizons[name])
    if horizons[short] >= longest[short]:
        return (
            f"In all {len(horizons)} layers the gradient keeps 1 % or more over every lag that was "
            "measured: none of them forgets within these steps."
        )
    if horizons[short] == horizons[far]:
        return (
            f"All {len(horizons)} layers keep 1 % of the gradient for {steps(horizons[far])}, "
            "and no further."
        )
    return (
        f"The gradient lasts shortest in {short}, {steps(horizons[short])}, and longest in {far}, "
        f"{steps(horizons[far])}. Begin with {short}: along the time axis of a layer nothing comes "
        "back from further than its own horizon."
    )


def _names(names: list[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
