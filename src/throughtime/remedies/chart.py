"""The gradient by lag, as it is and with each remedy, in one figure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..packages import need_plotly
from .reach import FRACTION

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from .treatment import Row, Treatment

__all__ = ["chart", "lines"]

# Middle tones, to be told apart on white and on black, and by those who see no red or green.
BEFORE, BEST, HELPS, FAINT = "#d95f0e", "#2b7bba", "#13976f", "rgba(123,133,146,0.55)"
# A line of more points than this cannot be told from one of as many.
POINTS = 500


def chart(treatment: Treatment) -> Figure:
    """Return the figure: as it is, the best, and thinner what else was tried.

    Args:
        treatment: what `treat` returned.

    Raises:
        PackageError: Plotly is not installed.
    """
    need_plotly()
    import plotly.graph_objects as go

    out = go.Figure(lines(treatment))
    out.add_hline(y=FRACTION, line={"dash": "dot", "color": FAINT, "width": 1})
    out.update_layout(
        title="How far the gradient reaches, as it is and with each remedy",
        template="plotly_white",
        xaxis_title="lag: steps behind the loss",
        yaxis_title="gradient, relative to lag 0",
        yaxis={"type": "log", "exponentformat": "power"},
    )
    return out


def lines(treatment: Treatment) -> list[dict[str, Any]]:
    """Return one Plotly trace a row, what helps above what does not, and the best on top.

    Args:
        treatment: what `treat` returned.
    """
    drawn = [row for row in treatment.rows if row.after is not None]
    drawn.sort(key=lambda row: _rank(row, treatment))
    idle = [row.name for row in drawn if _rank(row, treatment) == 0]
    return [_line(row, treatment, bool(idle) and row.name == idle[0]) for row in drawn]


def _rank(row: Row, treatment: Treatment) -> int:
    """Return what is drawn later, and so above: 0 no help, 1 helps, 2 as it is, 3 the best."""
    if row.remedy is None:
        return 2
    return 3 if row.name == treatment.best else int(row.helps)


def _line(row: Row, treatment: Treatment, first_idle: bool) -> dict[str, Any]:
    assert row.after is not None
    rank = _rank(row, treatment)
    profile = row.after.profile
    every = -(-len(profile) // POINTS)
    # A logarithmic axis has no place for 0, so those are left out and the line ends there.
    shown = [v if v > 0 and math.isfinite(v) else None for v in profile[::every]]
    color, width = ((FAINT, 1.25), (HELPS, 1.75), (BEFORE, 2.75), (BEST, 3.25))[rank]
    names = ("no help", f"{row.name} (helps)", row.name, f"{row.name} (best)")
    return {
        "type": "scatter",
        "mode": "lines",
        "x": list(range(0, len(profile), every)),
        "y": shown,
        "name": names[rank],
        # All that do not help are one entry of the legend.
        "legendgroup": row.name if rank else "no help",
        "showlegend": bool(rank) or first_idle,
        "legendrank": 10 - rank if rank != 2 else 1,
        "line": {"color": color, "width": width, "dash": "dash" if rank == 2 else "solid"},
        "hovertemplate": f"{row.name}<br>lag %{{x}}: %{{y:.2g}}<extra></extra>",
    }
