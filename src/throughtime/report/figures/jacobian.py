"""Singular values of J_t by step: what one step back does to the gradient."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...errors import InputValueError, UnsupportedError
from ...flow import LayerView
from .. import palette
from ..arrange import affordable, spectrum, thin
from ..number_text import number, steps
from .base import Drawing, layout, level, log_axis

__all__ = ["draw"]


def draw(layer: LayerView, *, row: int = 0, most: int = 60) -> Drawing:
    """Draw the singular values of J_t = ∂s_t/∂s_{t−1} over the steps, of one batch row (eq. 4).

    Args:
        layer: the flow of one layer.
        row: which batch row.
        most: how many steps at most; each costs a singular value decomposition.

    Raises:
        InputValueError: there is no such row.
        UnsupportedError: no state connects the steps.
    """
    if not layer.jacobian_steps:
        raise UnsupportedError(f"{layer.name} has no state between its steps, so no Jacobian.")
    if not 0 <= row < layer.B:
        raise InputValueError(f"row must be 0 to {layer.B - 1}; got {row}.")
    there = np.array(layer.jacobian_steps)
    at = there[thin(len(there), min(most, affordable(layer)))]
    values = np.stack([spectrum(layer, int(t), row) for t in at])
    finite = np.isfinite(values).all(1)
    return Drawing(
        heading="What does one step back do to the gradient?",
        caption=_caption(values[finite], at[finite], layer),
        note=_note(at, layer, row, values[finite]),
        equations=(4, 6),
        data=[
            *_lines(at[finite], values[finite]),
            level(1, 0.5, layer.T + 0.5, "1: keeps its size"),
        ],
        layout=layout(
            "step t",
            "singular values of J<sub>t</sub>",
            whole=layer.T,
            xaxis={"range": [0.5, layer.T + 0.5]},
            yaxis=log_axis(*_range(values[finite])),
            hovermode="x unified",
        ),
        height=340,
        empty=not finite.any(),
    )


def _lines(at: np.ndarray, values: np.ndarray) -> list[dict[str, Any]]:
    """Draw the largest, the quartiles and the smallest; shades say how the others lie between."""
    S = values.shape[1]
    ranks = {
        "largest σ₁": (0, palette.BOUND, 2.5, "solid"),
        "upper quarter": (S // 4, palette.MEASURED, 1, "dash"),
        "middle": (S // 2, palette.MEASURED, 2.5, "solid"),
        "lower quarter": (3 * S // 4, palette.MEASURED, 1, "dot"),
        "smallest": (S - 1, palette.TIGHT, 1.5, "dashdot"),
    }
    if S < 4:  # each of them has its own line
        ranks = {f"σ{i + 1}": (i, palette.COLORWAY[i], 2, palette.DASHES[i]) for i in range(S)}
    few = len(at) < 12
    out = []
    for name, (rank, colour, width, dash) in ranks.items():
        line = values[:, rank]
        out.append(
            {
                "type": "scatter",
                "mode": "lines+markers" if few else "lines",
                "x": at,
                "y": np.where(line > 0, line, np.nan),
                "name": name,
                "line": {"color": colour, "width": width, "dash": dash},
                "hovertemplate": f"{name} %{{y:.3g}}<extra></extra>",
            }
            | ({"fill": "tonexty", "fillcolor": palette.SPREAD} if name == "lower quarter" else {})
        )
    if S >= 4:  # the band lies between the two quarters: they must follow each other
        out = [out[0], out[1], out[3], out[2], out[4]]
    return out


def _range(values: np.ndarray) -> tuple[float, float]:
    """Return decades that hold 1 and all but what is next to nothing."""
    seen = np.log10(values[values > 0])
    low, high = (max(float(seen.min()), -8.0), float(seen.max())) if len(seen) else (-1.0, 1.0)
    return min(low, -0.3) - 0.2, max(high, 0.3) + 0.15


def _caption(values: np.ndarray, at: np.ndarray, layer: LayerView) -> str:
    if not len(values):
        return "No Jacobian of this layer is finite, so it has no singular values."
    top, middle = values[:, 0], values[:, values.shape[1] // 2]
    text = (
        f"Of {values.shape[1]} directions, one step back multiplies the strongest by "
        f"{number(np.median(top))} (at most {number(top.max())}, at step {at[top.argmax()]}) "
        f"and the middle one by {number(np.median(middle))}. "
    )
    if np.allclose(values, 1, atol=1e-3):
        return text + "All are 1: a step only turns the gradient, so it keeps its size at any lag."
    if top.max() < 1:
        return text + "All are below 1: whatever its direction, the gradient shrinks at every step."
    if np.median(middle) < 1:
        return text + (
            "Some directions can grow, most shrink: the gradient lasts only where it stays along "
            "the strong ones, which these values alone do not tell; the norms by lag do."
        )
    return text + "Most directions grow: over many steps the gradient is likely to overflow."


def _note(at: np.ndarray, layer: LayerView, row: int, values: np.ndarray) -> str:
    notes = []
    if layer.B > 1:
        notes.append(f"Batch row {row}.")
    if len(at) < layer.T:
        notes.append(f"{len(at)} of {steps(layer.T)}, evenly spread, to save time.")
    if len(values) and (values == 0).any():
        share = (values == 0).mean()
        notes.append(f"{100 * share:.0f} % of the values are exactly 0 and not drawn.")
    if len(values) < len(at):
        notes.append(f"At {steps(len(at) - len(values))} the Jacobian is not finite.")
    return " ".join(notes)
