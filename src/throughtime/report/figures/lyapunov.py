"""The Lyapunov spectrum: how fast each direction grows or decays over the whole sequence."""

from __future__ import annotations

import math

import numpy as np

from ...errors import InputValueError, UnsupportedError
from ...flow import LayerView
from .. import palette
from ..arrange import array, one_thread, sample_rows
from ..number_text import number, steps
from .base import Drawing, layout, level

__all__ = ["draw"]

WORK = 2e10  # operations that the decompositions may cost: T·B·S·n²
FLAT = 1e-3  # nats per step within which an exponent counts as 0


def draw(layer: LayerView, *, n: int = 32) -> Drawing:
    """Draw the n largest Lyapunov exponents, each row of the batch and their median (eq. 4).

    Args:
        layer: the flow of one layer.
        n: how many; at most S.

    Raises:
        InputValueError: ``n`` is below 1.
        UnsupportedError: no state connects the steps.
    """
    if not layer.jacobian_steps:
        raise UnsupportedError(f"{layer.name} has no state between its steps, so no exponents.")
    if n < 1:
        raise InputValueError(f"n, the number of exponents, must be at least 1; got {n}.")
    chosen = sample_rows(layer.B)
    affordable = math.sqrt(WORK / (layer.T * len(chosen) * layer.S))
    n = max(1, min(n, layer.S, max(int(affordable), 4)))
    with one_thread():
        values = array(layer.lyapunov(n, rows=chosen))
    shown = np.where(np.isfinite(values), values, np.nan)
    x = np.arange(1, n + 1)
    rows = np.isfinite(shown).any(1).nonzero()[0]
    middle = np.array([np.median(c[np.isfinite(c)]) if np.isfinite(c).any() else np.nan
                       for c in shown.T])  # fmt: skip
    dots = [
        {
            "type": "scatter",
            "mode": "markers",
            "x": np.tile(x, len(rows)),
            "y": shown[rows].ravel(),
            "name": "rows of the batch",
            "marker": {"color": palette.GUIDE, "size": 4, "opacity": 0.6},
            "hovertemplate": "exponent %{x}: %{y:.3f}<extra></extra>",
        }
    ]
    line = {
        "type": "scatter",
        "mode": "lines+markers",
        "x": x,
        "y": middle,
        "name": "median of the rows",
        "line": {"color": palette.MEASURED, "width": 2},
        "marker": {"size": 7},
        "hovertemplate": "exponent %{x}: %{y:.3f} per step<extra></extra>",
    }
    low, high = _range(shown)
    return Drawing(
        heading="How fast do directions grow or decay over the whole sequence?",
        caption=_caption(middle, layer.T),
        note=_note(layer, n, values),
        equations=(4, 7),
        data=[*(dots if layer.B > 1 else []), line, level(0, 0.5, n + 0.5, "0: keeps its size")],
        layout=layout(
            "exponent, largest first",
            "growth per step (natural log)",
            whole=n,
            xaxis={"range": [0.5, n + 0.5]},
            yaxis={"range": [low, high]},
            showlegend=True,
        ),
        height=320,
        empty=not np.isfinite(middle).any(),
    )


def _range(values: np.ndarray) -> tuple[float, float]:
    seen = values[np.isfinite(values)]
    low, high = (float(seen.min()), float(seen.max())) if len(seen) else (0.0, 0.0)
    low, high = min(low, 0.0), max(high, 0.0)
    room = max(0.12 * (high - low), 0.02)
    return low - room, high + room


def _caption(middle: np.ndarray, T: int) -> str:
    largest = middle[0]
    if not math.isfinite(largest):
        return "The largest exponent is not finite: nothing lasts even one step, or all overflows."
    text = f"The largest exponent is {number(largest)} per step: "
    if abs(largest) < FLAT:
        return text + (
            "in its best direction the gradient neither grows nor decays, so distance by itself "
            "takes nothing from it there."
        )
    half = math.log(2) / abs(largest)
    every = number(half, 2)
    every = "at every step" if every == "1" else f"every {every} steps"
    often = "by more than half at every step" if half < 1 else f"by half {every}"
    if largest < 0:
        return text + (
            f"even in its best direction the gradient shrinks {often}; over {steps(T)} "
            f"it keeps {number(math.exp(max(largest * T, -700)), 2)} of its size. To reach "
            "further, bring it closer to 0: a larger recurrent gain, or gates that stay open."
        )
    grown = largest * T
    return text + (
        f"in its best direction the gradient doubles {every}"
        + (f", {number(math.exp(grown), 2)}-fold over {steps(T)}" if grown < 700 else "")
        + ". Clip it, or lower the recurrent gain."
    )


def _note(layer: LayerView, n: int, values: np.ndarray) -> str:
    notes = [f"Over the {steps(layer.T)} of this sequence, not in the limit."]
    if n < layer.S:
        notes.append(f"The {n} largest of {layer.S}.")
    if len(values) < layer.B:
        notes.append(f"{len(values)} of {layer.B} batch rows, drawn with seed 0.")
    missing = (~np.isfinite(values)).sum()
    if missing:
        notes.append(f"{missing} of {values.size} values are not finite and not drawn.")
    return " ".join(notes)
