"""What each step gets of the whole gradient, in all layers: which steps can teach them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...diagnosis.findings.coverage import EachStep, each_step
from ...flow import LayerView
from .. import palette
from ..arrange import array
from ..number_text import number, percent, steps
from .base import Drawing, layout, level, log_axis

__all__ = ["draw"]


def draw(flow: Mapping[str, LayerView], *, fraction: float = 0.01) -> Drawing:
    """Draw what each step gets of all losses together, beside what the last ones get (eq. 9).

    Args:
        flow: a Flow.
        fraction: what share still counts as arriving.
    """
    each = {name: each_step(layer, fraction) for name, layer in flow.items()}
    lines = {name: array(one.level) for name, one in each.items()}
    seen = np.concatenate(list(lines.values()))
    seen = np.log10(seen[np.isfinite(seen) & (seen > 0)])
    low, high = (min(seen.min(), -2.0), max(seen.max(), 0.0)) if len(seen) else (-2.0, 0.0)
    room = max(0.06 * (high - low), 0.2)
    T = max(map(len, lines.values()))
    data = [
        {
            "type": "scatter",
            "mode": "lines" if len(line) > 12 else "lines+markers",
            "x": np.arange(1, len(line) + 1),
            "y": np.where(np.isfinite(line) & (line > 0), line, np.nan),
            "name": name or "the model",
            "line": {
                "color": palette.COLORWAY[i % len(palette.COLORWAY)],
                "width": 2.25,
                "dash": palette.DASHES[i % len(palette.DASHES)],
            },
            "hovertemplate": f"{name} %{{y:.2e}}<extra></extra>",
        }
        for i, (name, line) in enumerate(lines.items())
    ]
    zero = [name for name, line in lines.items() if (line == 0).any()]
    for name in zero[:1]:
        x = np.flatnonzero(lines[name] == 0) + 1
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": x[:: max(len(x) // 40, 1)],
                "y": np.full(len(x[:: max(len(x) // 40, 1)]), 10.0 ** max(low - room / 2, -300)),
                "name": "exactly 0",
                "marker": {"symbol": "triangle-down", "size": 8, "color": palette.UNDERFLOW},
                "hovertemplate": "step %{x}: exactly 0<extra></extra>",
            }
        )
    data.append(level(fraction, 1, max(T, 2), f"limit: {percent(fraction)}"))
    return Drawing(
        heading="What does each step get of the gradient?",
        caption=_caption(each, fraction),
        note="In a typical row of the batch.",
        equations=(5, 9),
        data=data,
        layout=layout(
            "step of the sequence",
            "share of what the last steps get",
            whole=T,
            xaxis={"range": [0.5, T + 0.5]},
            yaxis=log_axis(low - room, high + room),
            showlegend=True,
            hovermode="x unified",
        ),
        height=360,
        empty=not len(seen),
    )


def _caption(each: Mapping[str, EachStep], fraction: float) -> str:
    words = [_of_one(name or "the model", one, fraction) for name, one in each.items()]
    if len(words) > 4:
        words = [*words[:4], f"{len(words) - 4} more layers are drawn too."]
    return " ".join(words)


def _of_one(name: str, one: EachStep, fraction: float) -> str:
    line = array(one.level)
    if not np.isfinite(line).any():
        return f"In {name} nothing finite arrives at any step."
    top = float(np.nanmax(line))
    if top > 100:
        return (
            f"In {name} step {int(np.nanargmax(line)) + 1} gets {number(top, 2)} times what the "
            "last steps get."
        )
    many, of = one.reached, one.steps
    if many == of:
        return f"In {name} all {steps(of)} get {percent(fraction)} or more of what the last get."
    return (
        f"In {name} {steps(many)} of {of} get {percent(fraction)} or more of what the last get, "
        "the others less."
    )
