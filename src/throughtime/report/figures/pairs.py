"""The map of pairs (t, k): how much of the loss at step t reaches the state at step k."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...flow import LayerView
from .. import palette
from ..arrange import STEPS, Pairs, by_pair
from ..number_text import number, power, ratio, steps
from .base import Drawing, decades, label, layout
from .one_line import one_line

__all__ = ["draw"]


def draw(layer: LayerView, *, most: int = STEPS) -> Drawing:
    """Draw log10 ‖∂E_t/∂s_k‖ over all pairs (t, k): each line of the map is one loss (eq. 3).

    Args:
        layer: the flow of one layer.
        most: above so many steps, each n-th is drawn.
    """
    pairs = by_pair(layer, most)
    horizon = int(layer.horizon())
    if len(pairs.t) < 2:
        words = (_heading(layer), _caption(layer, pairs, horizon), _note(layer, pairs))
        return one_line(layer, pairs, *words)
    return Drawing(
        heading=_heading(layer),
        caption=_caption(layer, pairs, horizon),
        note=_note(layer, pairs),
        equations=(3, 4, 5, 9),
        data=[
            *_flat(pairs, pairs.zero, palette.UNDERFLOW, "exactly 0"),
            *_flat(pairs, pairs.broken, palette.NONFINITE, "not finite (inf or NaN)"),
            _heat(pairs),
            *_hatch(pairs, pairs.zero, palette.UNDERFLOW, "exactly 0"),
            *_hatch(pairs, pairs.broken, palette.NONFINITE, "not finite (inf or NaN)"),
            *_horizon(pairs, horizon),
        ],
        layout=layout(
            "k: the step that the gradient reaches",
            _line_of(layer, "t: the step of the loss", "t: the step where the gradient enters"),
            whole=layer.T,
            xaxis={"range": [-0.5, layer.T + 0.5], "showgrid": False},
            yaxis={
                "showgrid": False,
                **({"tickvals": pairs.t.tolist(), "automargin": True} if len(pairs.t) < 4 else {}),
            },
            margin={"l": 8, "r": 12, "t": 64, "b": 8},
            annotations=[_scale_label(), *_horizon_label(pairs, horizon)],
        ),
        height=520,
        empty=not (np.isfinite(pairs.norm) | pairs.zero | pairs.broken).any(),
    )


def _heading(layer: LayerView) -> str:
    return _line_of(
        layer,
        "Which steps does each loss reach?",
        "Which steps does the gradient reach from where it enters?",
    )


def _line_of(layer: LayerView, loss: str, entry: str) -> str:
    """Return words for a line of the map: a loss, or of a scalar a step at which it enters."""
    return entry if layer.split == "step" else loss


def _range(pairs: Pairs) -> tuple[float, float]:
    """Return the decades of the colour scale: at least two, so that equal norms look equal."""
    seen = np.log10(pairs.norm[np.isfinite(pairs.norm)])
    if not len(seen):
        return -1.0, 1.0
    low, high = float(seen.min()), float(seen.max())
    room = max(0.0, 2 - (high - low)) / 2
    return low - room, high + room


def _heat(pairs: Pairs) -> dict[str, Any]:
    low, high = _range(pairs)
    ticks = decades(low, high)
    return {
        "type": "heatmap",
        "x": pairs.k,
        "y": pairs.t,
        "z": np.log10(pairs.norm).astype(np.float32),
        "zmin": low,
        "zmax": high,
        "colorscale": palette.MAP_SCALE,
        "hoverongaps": False,
        "hovertemplate": "the loss at step %{y}<br>reaches the state at step %{x}"
        "<br>with a norm of 10<sup>%{z:.2f}</sup><extra></extra>",
        "colorbar": {
            "orientation": "h",
            "x": 0,
            "xanchor": "left",
            "y": 1,
            "yanchor": "bottom",
            "ypad": 6,
            "xpad": 0,
            "len": 0.75,
            "thickness": 10,
            "outlinewidth": 0,
            "tickvals": ticks,
            "ticktext": [power(n) for n in ticks],
            "ticklen": 3,
        },
    }


def _scale_label() -> dict[str, Any]:
    """Name the colour bar; its own title would push the figure's out of sight (plotly.js 3)."""
    return label(
        "norm ‖∂E<sub>t</sub>/∂s<sub>k</sub>‖",
        x=0,
        xref="x domain",
        xanchor="left",
        y=1,
        yref="y domain",
        yanchor="bottom",
        yshift=36,
    )


def _flat(pairs: Pairs, where: np.ndarray, colour: str, name: str) -> list[dict[str, Any]]:
    """Colour the cells that have no logarithm, in one flat colour of their own."""
    if not where.any():
        return []
    return [
        {
            "type": "heatmap",
            "x": pairs.k,
            "y": pairs.t,
            "z": np.where(where, 1, np.nan).astype(np.float32),
            "colorscale": [[0, colour], [1, colour]],
            "showscale": False,
            "opacity": 0.45,
            "hoverongaps": False,
            "hovertemplate": "the loss at step %{y}, the state at step %{x}:"
            f"<br>{name}<extra></extra>",
        }
    ]


def _hatch(pairs: Pairs, where: np.ndarray, colour: str, name: str) -> list[dict[str, Any]]:
    """Hatch the same cells with thin lines, so that colour is not all that tells them apart."""
    x: list[float | None] = []
    y: list[float | None] = []
    for i in range(0, len(pairs.t), max(len(pairs.t) // 40, 1)):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], where[i].astype(int), [0]])))
        for start, stop in edges.reshape(-1, 2):
            x += [pairs.k[start] - 0.5, pairs.k[stop - 1] + 0.5, None]
            y += [pairs.t[i], pairs.t[i], None]
    if not x:
        return []
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "x": x,
            "y": y,
            "name": name,
            "line": {"color": colour, "width": 1},
            "hoverinfo": "skip",
            "showlegend": True,
        }
    ]


def _horizon(pairs: Pairs, horizon: int) -> list[dict[str, Any]]:
    """Draw the diagonal k = t − horizon."""
    if not _has_horizon(pairs, horizon):
        return []
    ends = np.array([horizon, pairs.t[-1]])
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "x": ends - horizon,
            "y": ends,
            "name": f"horizon: {steps(horizon)} back",
            "line": {"color": "#ffffff", "width": 1.5, "dash": "dash"},
            "hoverinfo": "skip",
            "showlegend": False,
        }
    ]


def _has_horizon(pairs: Pairs, horizon: int) -> bool:
    return len(pairs.t) > 1 and 0 < horizon < pairs.t[-1]


def _horizon_label(pairs: Pairs, horizon: int) -> list[dict[str, Any]]:
    if not _has_horizon(pairs, horizon):
        return []
    return [
        # The corner below the diagonal is always empty.
        label(
            f"dashed: horizon, {steps(horizon)} back",
            x=1,
            xref="x domain",
            xanchor="right",
            y=0.03,
            yref="y domain",
            yanchor="bottom",
        )
    ]


def _caption(layer: LayerView, pairs: Pairs, horizon: int) -> str:
    if not len(pairs.t):
        return "No loss sends a gradient into this layer, so the map is empty."
    seen = np.isfinite(pairs.norm)
    if not seen.any() and pairs.zero.any():
        return "Every norm is exactly 0: no loss sends a gradient into this layer."
    if not seen.any():
        return "Every norm is inf or NaN: no loss can teach this layer until that is mended."
    lines = (
        "Each line is one loss; from its own step on the diagonal it runs back in time to the left."
        if len(pairs.t) > 1
        else "There is one loss; from its own step it runs back in time to the left."
    )
    entries = (
        "There is one loss. Each line is a step at which its gradient enters this layer, from what "
        "reads the output there or from the layer above; it runs back in time to the left."
        if len(pairs.t) > 1
        else "There is one loss, and its gradient enters at one step; it runs back in time to the "
        "left."
    )
    text = _line_of(layer, lines, entries) + _last_line(layer, pairs)
    if pairs.broken.any():
        first = int(pairs.t[np.flatnonzero(pairs.broken.any(1))[0]])
        text += f" From the loss at step {first} on there are gradients that are not finite."
    if pairs.zero.any():
        share = pairs.zero.sum() / (seen | pairs.zero | pairs.broken).sum()
        dtype = str(layer.norms.dtype).removeprefix("torch.")
        text += (
            f" {max(100 * share, 1):.0f} % of all pairs are exactly 0: too small for {dtype}, or "
            "cut off on the way."
        )
    window = layer.window_ends
    longest = len(layer.lag_profile()) - 1 if window is None else window
    return f"{text}\n{_what_follows(pairs, horizon, longest)}"


def _last_line(layer: LayerView, pairs: Pairs) -> str:
    """Describe what the last loss has at its own step, and at the earliest where any arrives."""
    line = pairs.norm[-1]
    there = np.flatnonzero(np.isfinite(line))
    if len(there) < 2:
        return ""
    near, far = float(line[there[-1]]), float(line[there[0]])
    change = math.log10(far) - math.log10(near)
    if abs(change) < 0.05:
        compared = "about the same"
    else:
        compared = f"{ratio(change)} {'of' if change < 0 else 'times'} that"
    return (
        f" The gradient {_line_of(layer, 'of the loss', 'that enters')} at step {pairs.t[-1]} has "
        f"a norm of {number(near, 2)} at step {pairs.k[there[-1]]} and of {number(far, 2)} at step "
        f"{pairs.k[there[0]]}, {compared}."
    )


def _what_follows(pairs: Pairs, horizon: int, longest: int) -> str:
    if pairs.broken.any():
        return "Until that is mended, no loss from that step on can teach this layer anything."
    if 0 < horizon < longest:
        return (
            f"{'Left of the dashed line, more' if len(pairs.t) > 1 else 'More'} than "
            f"{steps(horizon)} before its loss, a state gets less than 1 % of the gradient: it is "
            "hardly taught by that loss."
        )
    if horizon >= longest:
        return "Every state that was measured gets 1 % or more of what the loss's own step gets."
    return "Not even the step before its loss gets 1 % of the gradient."


def _note(layer: LayerView, pairs: Pairs) -> str:
    notes = []
    missing = (pairs.t[:, None] >= pairs.k) & ~np.isfinite(pairs.norm) & ~pairs.zero & ~pairs.broken
    if len(pairs.t) > 1 or missing.any():
        notes.append(
            "Empty where k lies after the loss"
            + (", or where nothing was measured or a reset cuts the way." if missing.any() else ".")
        )
    if layer.B > 1:
        notes.append(f"Median over the {layer.B} rows of the batch.")
    if pairs.every > 1:
        notes.append(f"{layer.T} steps are too many to draw: one in {pairs.every} is shown.")
    return " ".join(notes)
