"""What every figure is: plain Plotly dicts, and the sentences that say what they show.

The figures are built as dicts, so that importing this room costs nothing; Plotly itself is
imported when one is shown.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...packages import need_plotly
from ..number_text import symbols
from ..palette import GUIDE, plotly_template

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["Drawing", "decades", "guide", "label", "layout", "level", "log_axis", "wrap"]


@dataclass(frozen=True)
class Drawing:
    """One figure before Plotly, with its words.

    Attributes:
        heading: the question that the figure answers.
        caption: what it shows, in numbers of this flow, and what follows for the reader; its
            paragraphs are separated by a newline.
        data: Plotly traces.
        layout: Plotly layout, without template and words.
        note: how it was drawn: what was left out, which row, which steps.
        equations: numbers in docs/math.md.
        height: in pixels on a wide page.
        empty: whether there is nothing to draw, so that a page shows only the words.
    """

    heading: str
    caption: str
    data: list[dict[str, Any]]
    layout: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    equations: tuple[int, ...] = ()
    height: int = 380
    empty: bool = False

    def figure(self) -> Figure:
        """Return the Plotly figure with its words above it; they are in ``layout.meta`` too.

        Raises:
            PackageError: Plotly is not installed.
        """
        need_plotly()
        import plotly.graph_objects as go

        text = symbols(wrap(" ".join(filter(None, (self.caption, self.note)))))
        lines = text.count("<br>") + 1
        top = 64 + 18 * lines + self.layout.get("margin", {}).get("t", 0)
        figure = go.Figure(self.data, self.layout | {"template": plotly_template()})
        # Not as the layout's title: a colour bar above the plot would push that out of sight.
        for words, size, below in ((self.heading, 17, 14), (text, 13, 42)):
            figure.add_annotation(
                text=words,
                font={"size": size},
                showarrow=False,
                align="left",
                x=0,
                xref="paper",
                xanchor="left",
                y=1,
                yref="paper",
                yanchor="top",
                yshift=top - below,
            )
        figure.update_layout(
            margin={"t": top},
            height=self.height + top,
            meta={
                "heading": self.heading,
                "caption": self.caption,
                "note": self.note,
                "equations": list(self.equations),
            },
        )
        if self.empty:
            figure.add_annotation(
                text="nothing finite to draw",
                showarrow=False,
                x=0.5,
                y=0.5,
                xref="x domain",
                yref="y domain",
            )
        return figure


def wrap(text: str, width: int = 104) -> str:
    """Break a caption into lines for Plotly, which does not wrap by itself."""
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "<br>".join(lines)


def layout(x: str, y: str, whole: int = 100, **more: Any) -> dict[str, Any]:
    """Return the layout that all figures share: axis titles, legend below, tight margins.

    Args:
        x: title of the x axis.
        y: title of the y axis.
        whole: how many steps the x axis has; where they are few, ticks stand at whole ones only.
        more: further entries; dicts given for ``xaxis`` and ``yaxis`` are merged.
    """
    xaxis = {"title": {"text": x}} | ({"dtick": 1} if whole <= 10 else {}) | more.pop("xaxis", {})
    yaxis = {"title": {"text": y}} | more.pop("yaxis", {})
    return {
        "xaxis": xaxis,
        "yaxis": yaxis,
        "margin": {"l": 8, "r": 12, "t": 12, "b": 8},
        "legend": {
            "orientation": "h",
            "x": 0,
            "xanchor": "left",
            "y": -0.02,
            "yref": "container",
            "yanchor": "bottom",
            "traceorder": "normal",
        },
        "hovermode": "closest",
    } | more


def log_axis(low: float, high: float) -> dict[str, Any]:
    """Return a logarithmic axis from 10^low to 10^high, ticks at whole powers where these do."""
    whole = {"dtick": 1} if 1.5 < high - low < 9 else {}
    return {"type": "log", "exponentformat": "power", "range": [low, high], **whole}


def guide(axis: str, at: float, **more: Any) -> dict[str, Any]:
    """Return a thin line across the whole plot at ``at`` on ``axis`` ("x" or "y")."""
    other = "y" if axis == "x" else "x"
    return {
        "type": "line",
        f"{axis}0": at,
        f"{axis}1": at,
        f"{other}0": 0,
        f"{other}1": 1,
        f"{other}ref": f"{other} domain",
        "line": {"color": GUIDE, "width": 1.25, "dash": "dot"},
    } | more


def level(at: float, since: float, until: float, name: str) -> dict[str, Any]:
    """Return a thin horizontal line that has its name in the legend."""
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [since, until],
        "y": [at, at],
        "name": name,
        "line": {"color": GUIDE, "width": 1.25, "dash": "dot"},
        "hoverinfo": "skip",
    }


def label(text: str, **more: Any) -> dict[str, Any]:
    """Return a label without an arrow, 12 px, at the place that ``more`` names."""
    return {"text": text, "showarrow": False, "font": {"size": 12}} | more


def decades(low: float, high: float, most: int = 6) -> list[int]:
    """Return whole exponents between two, few enough to be read as tick labels."""
    from math import ceil, floor

    first, last = ceil(low), floor(high)
    if last < first:
        return [round((low + high) / 2)]
    every = next(
        n for n in (1, 2, 3, 5, 10, 20, 50, 100, 200, 500) if (last - first) / n < most or n == 500
    )
    return [n for n in range(first, last + 1) if n % every == 0] or [first]
