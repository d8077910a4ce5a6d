"""The gradient by lag as it is and with each remedy that was tried."""

from __future__ import annotations

import math

from ...remedies import Treatment
from ...remedies.chart import lines
from ..number_text import percent, steps
from .base import Drawing, guide, layout, level, log_axis

__all__ = ["draw"]

FRACTION = 0.01
# Below so much of its start nothing arrives; the axis ends there whatever a line does.
LOWEST = -20.0


def draw(treatment: Treatment) -> Drawing:
    """Draw the norms by lag before and after, one line a remedy.

    Args:
        treatment: what `throughtime.treat` returned.
    """
    data = lines(treatment)
    longest = max((line["x"][-1] for line in data if line["x"]), default=1)
    values = [v for line in data for v in line["y"] if v is not None]
    data.append(level(FRACTION, 0, max(longest, 1), f"{percent(FRACTION)} of the start"))
    return Drawing(
        heading="How far back, as it is and with each remedy?",
        caption=_caption(treatment),
        note="Each line is the layer that reaches farthest: the typical norm over losses and rows "
        "by lag, compared with its start.",
        data=data,
        empty=not values,
        height=420,
        layout=layout(
            "steps back (lag t − k)",
            "gradient, compared with its start",
            whole=longest,
            xaxis={"range": [0, max(longest, 1)]},
            yaxis=log_axis(*_range(values)),
            shapes=[guide("x", treatment.lag)] if treatment.lag < longest else [],
            showlegend=True,
        ),
    )


def _range(values: list[float]) -> tuple[float, float]:
    logs = [math.log10(value) for value in values] or [0.0]
    low, high = max(min(*logs, -2.0), LOWEST), max(*logs, 0.0)
    room = max(0.05 * (high - low), 0.2)
    return low - room, high + room


def _caption(treatment: Treatment) -> str:
    """Return what the figure shows, in numbers."""
    first = treatment.rows[0].after
    assert first is not None
    at = f"{steps(treatment.lag)} back"
    if first.nonfinite is not None:
        return "As it is, the gradient is not finite, and where that is so a line ends."
    said = f"As it is, {percent(first.at_lag)} of the gradient arrives {at}"
    best = None if treatment.best is None else treatment[treatment.best].after
    if best is None or best.nonfinite is not None or not math.isfinite(best.at_lag):
        return f"{said}."
    return f"{said}; with {treatment.best}, {percent(best.at_lag)}."
