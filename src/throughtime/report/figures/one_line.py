"""What one loss sends to each step, as a curve."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...flow import LayerView
from .. import palette
from ..arrange import Pairs
from .base import Drawing, layout, log_axis

__all__ = ["one_line"]


def one_line(layer: LayerView, pairs: Pairs, heading: str, caption: str, note: str) -> Drawing:
    """Draw a single line of the map as a curve: a strip of colours says less.

    Args:
        layer: the flow of one layer.
        pairs: with one line, or none.
        heading: as of the map.
        caption: as of the map.
        note: as of the map.
    """
    norm = pairs.norm[0] if len(pairs.t) else np.zeros(0)
    y = np.where(np.isfinite(norm) & (norm > 0), norm, np.nan)
    seen = np.log10(y[np.isfinite(y)])
    low, high = (float(seen.min()), float(seen.max())) if len(seen) else (-1.0, 0.0)
    room = max(0.08 * (high - low), 0.3)
    marks = [(pairs.zero, low - room, "exactly 0", palette.UNDERFLOW),
             (pairs.broken, high + room, "not finite (inf or NaN)", palette.NONFINITE)]  # fmt: skip
    data: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines+markers" if len(y) < 12 else "lines",
            "x": pairs.k[: len(y)],
            "y": y,
            "name": "gradient",
            "line": {"color": palette.MEASURED, "width": 2.5},
            "hovertemplate": "step %{x}: %{y:.2e}<extra></extra>",
        }
    ]
    for where, edge, name, colour in marks:
        if where.any():
            x = pairs.k[where[0]]
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "x": x,
                    "y": np.full(len(x), 10.0 ** np.clip(edge, -300, 300)),
                    "name": name,
                    "marker": {"color": colour, "size": 6, "symbol": "x"},
                    "hovertemplate": f"step %{{x}}: {name}<extra></extra>",
                }
            )
    return Drawing(
        heading=heading,
        caption=caption,
        note=note,
        equations=(3, 4, 5, 9),
        data=data,
        layout=layout(
            "k: the step that the gradient reaches",
            "size of the gradient there",
            whole=layer.T,
            xaxis={"range": [-0.5, layer.T + 0.5]},
            yaxis=log_axis(low - room, high + room),
            showlegend=len(data) > 1,
        ),
        height=300,
        empty=not (np.isfinite(pairs.norm) | pairs.zero | pairs.broken).any(),
    )
