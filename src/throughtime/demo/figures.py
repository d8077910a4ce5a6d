"""The demo's figures, in the look of every other page."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..report import palette
from ..report.figures.base import Drawing, guide, label, layout
from ..tasks.mention import LONG, SHORT
from . import overflow_words, words
from .experiment import Study
from .overflow import Overflow
from .recall import Recalled

__all__ = ["accuracy", "adjoint_norms", "bounds_figure", "probability", "reach_figure"]

SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star")
FLOAT32 = -45.0  # decades: what is smaller, float32 has no number for
LAG_TITLE = "words between mention and blank"


def _line(i: int, name: str, **more: Any) -> dict[str, Any]:
    colour = palette.COLORWAY[i % len(palette.COLORWAY)]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "line": {"color": colour, "width": 2, "dash": palette.DASHES[i % len(palette.DASHES)]},
        "marker": {
            "symbol": SYMBOLS[i % len(SYMBOLS)],
            "size": 13 - 1.5 * (i % 5),
            "color": colour,
        },
    } | more


def _lag_axis(study: Study) -> dict[str, Any]:
    lags = list(study.plan.lags)
    return {"type": "log", "tickvals": lags, "ticktext": [str(lag) for lag in lags]}


def accuracy(study: Study, rows: list[Recalled], heading: str, caption: str) -> Drawing:
    """Draw the share of right answers by distance, with 95 % intervals."""
    data = []
    for i, row in enumerate(rows):
        share = [score.share for score in row.scores]
        above = [score.interval[1] - score.share for score in row.scores]
        below = [score.share - score.interval[0] for score in row.scores]
        data.append(
            _line(
                i,
                row.name,
                x=[score.lag for score in row.scores],
                y=share,
                error_y={"type": "data", "array": above, "arrayminus": below, "width": 3,
                         "thickness": 1.2},
                hovertemplate="%{x} words: %{y:.0%}<extra>" + row.name + "</extra>",
            )
        )  # fmt: skip
    tested = rows[0].scores[0].of
    return Drawing(
        heading=heading,
        caption=caption,
        note=f"{tested} new texts a distance, the same for every network; bars are Wilson's 95 % "
        "intervals.",
        data=data,
        layout=layout(
            LAG_TITLE,
            "answered right",
            xaxis=_lag_axis(study),
            yaxis={"tickformat": ".0%", "range": [-0.03, 1.06]},
            shapes=[guide("y", study.chance)],
            annotations=[
                label("a guess", x=0, xref="x domain", xanchor="left", xshift=4,
                      y=study.chance, yanchor="top")
            ],
        ),
        height=420,
    )  # fmt: skip


def probability(study: Study) -> Drawing:
    """Draw P(John) on the source's two sentences."""
    rows = study.mixed[::-1]  # the first at the top
    bars = []
    for which, (title, colour) in enumerate(
        (
            (f"short, {SHORT.lag} words", palette.MEASURED),
            (f"long, {LONG.lag} words", palette.BOUND),
        )
    ):
        values = [row.source[which] for row in rows]
        bars.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": title,
                "y": [row.name for row in rows],
                "x": values,
                "text": [f"{value:.2f}" for value in values],
                "textposition": "outside",
                "cliponaxis": False,
                "marker": {"color": colour},
                "hovertemplate": "%{y}: %{x:.3f}<extra>" + title + "</extra>",
            }
        )
    return Drawing(
        heading="What do they make of the source’s own two sentences?",
        caption=words.sentences(study),
        note="Two sentences are two sentences: the next figure has hundreds of them.",
        data=bars[::-1],
        layout=layout(
            "P(John)",
            "",
            xaxis={"range": [0, 1.12]},
            shapes=[guide("x", study.chance)],
            barmode="group",
            bargap=0.35,
        )
        | {"legend": layout("", "")["legend"] | {"traceorder": "reversed"}},
        height=90 + 64 * len(rows),
    )


def reach_figure(
    study: Study, rows: list[Recalled], which: Callable[[Recalled], dict[int, float]], heading: str,
    caption: str,
) -> Drawing:  # fmt: skip
    """Draw how much of the gradient reaches the mention, by distance."""
    data = []
    for i, row in enumerate(rows):
        found = which(row)
        data.append(
            _line(
                i,
                row.name,
                x=list(found),
                y=[value if value > 0 else None for value in found.values()],
                hovertemplate="%{x} words: %{y:.1e}<extra>" + row.name + "</extra>",
            )
        )
    seen = [value for row in rows for value in which(row).values() if value > 0]
    low = max(math.log10(min(seen, default=1e-3)), FLOAT32)
    top = max(math.log10(max(seen, default=1.0)), 0.0)
    return Drawing(
        heading=heading,
        caption=caption,
        note="‖dE/ds‖ at the mention over the same at the blank; median of 32 texts a distance, "
        "measured in float64. The axis ends at 10⁻⁴⁵, where float32 does.",
        equations=(3, 9),
        data=data,
        layout=layout(
            LAG_TITLE,
            "gradient at the mention, relative to the blank",
            xaxis=_lag_axis(study),
            yaxis={"type": "log", "exponentformat": "power", "range": [low - 1, top + 1]},
            shapes=[guide("x", SHORT.lag), guide("x", LONG.lag)],
            annotations=[
                label(
                    text,
                    x=math.log10(lag),
                    xanchor="left",
                    xshift=4,
                    y=0,
                    yref="y domain",
                    yanchor="bottom",
                )
                for text, lag in (("short", SHORT.lag), ("long", LONG.lag))
                if lag in study.plan.lags
            ],
        ),
        height=440,
    )


def bounds_figure(row: Recalled) -> Drawing:
    """Draw truth and bounds of one network's Jacobian product by lag."""
    found = row.bounds
    assert found is not None
    lines = [
        ("measured ‖∂s<sub>T</sub>/∂s<sub>T−lag</sub>‖", found.truth, palette.MEASURED, "solid"),
        ("bound Π‖J‖", found.tight, palette.TIGHT, "dash"),
    ]
    if found.loose is not None:
        name = "bound (β<sub>W</sub>β<sub>f</sub>)<sup>lag</sup>"
        lines.append((name, found.loose, palette.BOUND, "dot"))
    return Drawing(
        heading=f"Bound and truth: {row.name}",
        caption=words.bound_sentences(row),
        note="At initialisation, in float64; median of 4 texts of the longest distance.",
        equations=(4, 6, 7, 8),
        data=[
            {
                "type": "scatter",
                "mode": "lines",
                "name": name,
                "x": list(range(len(values))),
                "y": [value if 0 < value < 1e300 else None for value in values],
                "line": {"color": colour, "dash": dash, "width": 2},
                "hovertemplate": "lag %{x}: %{y:.1e}<extra></extra>",
            }
            for name, values, colour, dash in lines
        ],
        layout=layout(
            "lag", "largest stretch", yaxis={"type": "log", "exponentformat": "power"},
            shapes=[guide("y", 1.0)],
        ),
        height=340,
    )  # fmt: skip


def adjoint_norms(rows: list[Overflow]) -> Drawing:
    """Draw the norm of dE/ds_k by step for each gain, and mark where it is not finite."""
    rows = [row for row in rows if row.clip is None]
    data, broken = [], []
    for i, row in enumerate(rows):
        finite = [value if math.isfinite(value) and value > 0 else None for value in row.by_step]
        name = f"β<sub>W</sub> = {row.gain:g}"
        data.append(
            _line(i, name, mode="lines", x=list(range(len(finite))), y=finite,
                  hovertemplate="step %{x}: %{y:.1e}<extra>" + name + "</extra>")
        )  # fmt: skip
        seen = [value for value in finite if value]
        broken += [
            (k, max(seen, default=1.0), "inf" if math.isinf(value) else "NaN")
            for k, value in enumerate(row.by_step)
            if not math.isfinite(value)
        ]
    for kind, symbol in (("inf", "triangle-up"), ("NaN", "x")):
        marks = [(k, y) for k, y, what in broken if what == kind]
        if marks:
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": kind,
                    "x": [k for k, _ in marks],
                    "y": [1e40 for _ in marks],
                    "cliponaxis": False,
                    "marker": {"symbol": symbol, "size": 9, "color": palette.NONFINITE},
                    "hovertemplate": f"step %{{x}}: {kind}<extra></extra>",
                }
            )
    return Drawing(
        heading="Where does it overflow?",
        caption=overflow_words.first_bad_step(rows),
        note="Norm over the texts of one batch, in float32, before the first update. Read from "
        "right to left: that is how the gradient goes. Dotted: float32’s largest number.",
        equations=(9, 10),
        data=data,
        layout=layout(
            "step k",
            "‖dE/ds<sub>k</sub>‖",
            yaxis={"type": "log", "exponentformat": "power"},
            shapes=[guide("y", 3.4e38)],
        ),
        height=400,
    )
