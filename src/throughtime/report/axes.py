"""Where things lie on a figure that is drawn without a plotting library."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .figures.base import decades
from .number_text import number, power

__all__ = ["Axis", "axis_of"]


@dataclass(frozen=True)
class Axis:
    """One direction of a plot: from numbers to points of the drawing.

    Attributes:
        low: where it begins, in its numbers or, on a logarithmic axis, their decades.
        high: where it ends.
        start: the point of ``low``.
        end: the point of ``high``.
        log: whether it is logarithmic.
        title: its name.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool
    title: str

    def at(self, value: Any) -> np.ndarray:
        """Return the points of numbers; NaN where one has none."""
        given = np.array([math.nan if v is None else v for v in _listed(value)], float)
        if self.log:
            with np.errstate(divide="ignore", invalid="ignore"):
                given = np.where(given > 0, np.log10(given), math.nan)
        return self.share((given - self.low) / (self.high - self.low))

    def share(self, part: Any) -> Any:
        """Return the point at a share of the axis: 0 is its start, 1 its end."""
        return self.start + part * (self.end - self.start)

    def ticks(self) -> list[tuple[float, str]]:
        """Return a few points, and what stands there."""
        if self.log:
            return [(float(self.at(10.0**n)[0]), power(n)) for n in decades(self.low, self.high)]
        step = _step((self.high - self.low) / 7)
        first = math.ceil(self.low / step - 1e-9)
        values = [n * step for n in range(first, math.floor(self.high / step + 1e-9) + 1)]
        return [(float(self.at(v)[0]), number(v)) for v in values]


def axis_of(layout: dict[str, Any], values: Iterable[Any], start: float, end: float) -> Axis:
    """Return the axis that a figure's layout describes.

    Args:
        layout: its ``xaxis`` or ``yaxis``.
        values: what is drawn along it, for a range that the layout does not name.
        start: the point of its low end.
        end: the point of its high end.
    """
    log = layout.get("type") == "log"
    title = layout.get("title", {}).get("text", "")
    if "range" in layout:
        low, high = layout["range"]
    else:
        seen = np.concatenate([np.zeros(0), *(np.asarray(v, float) for v in values)])
        seen = np.log10(seen[seen > 0]) if log else seen
        seen = seen[np.isfinite(seen)]
        low, high = (float(seen.min()), float(seen.max())) if len(seen) else (0.0, 1.0)
        low = 0.0 if layout.get("rangemode") == "tozero" else low
    return Axis(low, high if high > low else low + 1, start, end, log, title)


def _listed(value: Any) -> list[Any]:
    return np.atleast_1d(np.asarray(value, object)).tolist()


def _step(rough: float) -> float:
    """Return 1, 2 or 5 times a power of ten, at least that and at least 1: steps are whole."""
    ten = 10.0 ** math.floor(math.log10(rough))
    return max(1.0, next(n * ten for n in (1, 2, 5, 10) if n * ten >= rough * 0.999))
