"""Colours and type, once for all figures and pages: readable on white and on near-black.

The trace colours are middle tones of the set of Okabe and Ito, which stay apart for colour-blind
readers; where two lines could still be confused, their dashes differ too.
"""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = [
    "BOUND",
    "COLORWAY",
    "DASHES",
    "FONT",
    "GUIDE",
    "MAP_SCALE",
    "MEASURED",
    "NONFINITE",
    "SCHEMES",
    "SEVERITIES",
    "SPREAD",
    "TIGHT",
    "UNDERFLOW",
    "VERDICTS",
    "Scheme",
    "Severity",
    "css_variables",
    "plotly_template",
]

MEASURED = "#2b7bba"
SPREAD = "rgba(43,123,186,0.20)"
BOUND = "#d95f0e"
TIGHT = "#13976f"
GUIDE = "#7b8592"
UNDERFLOW = "#8f97a3"
NONFINITE = "#c2418c"
COLORWAY = ("#2b7bba", "#d95f0e", "#13976f", "#b0669a", "#b0860b", "#4a9fd0", "#7b8592")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
MAP_SCALE = "Viridis"

FONT = (
    '-apple-system, BlinkMacSystemFont, "Segoe UI", Roboto, "Helvetica Neue", Arial, '
    '"Noto Sans", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", system-ui, sans-serif'
)


class Severity(NamedTuple):
    """How a severity looks: a filled label, told by its word and its sign too.

    Attributes:
        word: for a reader.
        colour: of the label; none of these is a colour of the data.
        ink: of the word on it.
        sign: before the word.
    """

    word: str
    colour: str
    ink: str
    sign: str


SEVERITIES = {
    "error": Severity("Error", "#b4182d", "#ffffff", "✕"),
    "warning": Severity("Warning", "#f2c230", "#231b00", "!"),
    "note": Severity("Note", "#5d6776", "#ffffff", "i"),
    "sound": Severity("No fault found", "#3f6b1f", "#ffffff", "✓"),
}
# How bad each verdict is.
VERDICTS = {
    "HEALTHY": "sound",
    "VANISHING": "warning",
    "EXPLODING": "warning",
    "NONFINITE": "error",
}


class Scheme(NamedTuple):
    """The colours of paper and ink in one colour scheme."""

    paper: str
    surface: str
    ink: str
    muted: str
    line: str
    grid: str


SCHEMES = {
    "light": Scheme("#ffffff", "#f5f7f9", "#1a1f26", "#56606d", "#d9dee4", "#e9edf1"),
    "dark": Scheme("#12161b", "#1a2028", "#e7ebf0", "#a0aab6", "#333c47", "#262e37"),
}


def css_variables(scheme: str) -> str:
    """Return the colours of a scheme as CSS custom properties: ``--paper: #fff; …``."""
    return " ".join(f"--{name}: {value};" for name, value in SCHEMES[scheme]._asdict().items())


def plotly_template(scheme: str = "light", *, transparent: bool = False) -> dict[str, Any]:
    """Return the Plotly template of a scheme, as a plain dict.

    Args:
        scheme: "light" or "dark".
        transparent: whether the page behind shows through.
    """
    colours = SCHEMES[scheme]
    paper = "rgba(0,0,0,0)" if transparent else colours.paper
    axis = {
        "gridcolor": colours.grid,
        "linecolor": colours.line,
        "tickcolor": colours.line,
        "zerolinecolor": colours.line,
        "zeroline": False,
        "ticks": "outside",
        "ticklen": 4,
        "showline": True,
        "automargin": True,
        "title": {"font": {"size": 13, "color": colours.muted}, "standoff": 10},
        "tickfont": {"size": 12, "color": colours.muted},
    }
    return {
        "layout": {
            "font": {"family": FONT, "size": 13, "color": colours.ink},
            "paper_bgcolor": paper,
            "plot_bgcolor": paper,
            "colorway": list(COLORWAY),
            "xaxis": axis,
            "yaxis": axis,
            "hoverlabel": {
                "bgcolor": colours.surface,
                "bordercolor": colours.line,
                "font": {"family": FONT, "size": 13, "color": colours.ink},
                "align": "left",
            },
            "legend": {"font": {"size": 12, "color": colours.ink}, "bgcolor": "rgba(0,0,0,0)"},
            "annotationdefaults": {"font": {"size": 12, "color": colours.ink}},
            "title": {"font": {"size": 17, "color": colours.ink}},
        }
    }
