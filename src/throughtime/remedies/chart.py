"""The gradient by lag, as it is and with each remedy, in one figure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .reach import FRACTION

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from .treatment import Row, Treatment

__all__ = ["chart"]

BEFORE, BEST, OTHER, FAINT = "#222222", "#0072B2", "#777777", "#BBBBBB"


def chart(treatment: Treatment) -> Figure:
    """Return the figure: black as it is, blue the best, grey what else was tried.

    Args:
        treatment: what `treat` returned.
    """
    import plotly.graph_objects as go

    out = go.Figure()
    for row in treatment.rows:
        if row.after is None:
            continue
        # A logarithmic axis has no place for 0, so those are left out and the line ends there.
        shown = [v if v > 0 and math.isfinite(v) else None for v in row.after.profile]
        first, best = row is treatment.rows[0], row.name == treatment.best
        color = BEFORE if first else BEST if best else OTHER if row.helps else FAINT
        out.add_scatter(
            x=list(range(len(shown))),
            y=shown,
            mode="lines",
            name=_name(row),
            line={"color": color, "width": 3 if first or best else 1.5},
            hovertemplate=f"{row.name}<br>lag %{{x}}: %{{y:.2g}}<extra></extra>",
        )
    out.add_hline(y=FRACTION, line={"dash": "dot", "color": OTHER, "width": 1})
    out.update_layout(
        title="How far the gradient reaches, as it is and with each remedy",
        template="plotly_white",
        xaxis_title="lag: steps behind the loss",
        yaxis_title="gradient, relative to lag 0",
        yaxis={"type": "log", "exponentformat": "power"},
    )
    return out


def _name(row: Row) -> str:
    if row.remedy is None:
        return row.name
    return f"{row.name} ({'helps' if row.helps else 'does not help'})"
