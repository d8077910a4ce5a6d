"""The course of a number in a line of blocks, and numbers in few characters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

__all__ = ["QUANTITIES", "as_blocks", "binned", "short"]

BLOCKS = "▁▂▃▄▅▆▇█"


def as_blocks(values: Sequence[float], width: int, *, logarithmic: bool = False) -> str:
    """Return a course as one line of blocks; a blank where nothing is known.

    Args:
        values: in order; NaN where there is none.
        width: how many characters it may take.
        logarithmic: whether a block more is ten times as much, the full one being 1.

    Example:
        >>> as_blocks([0, 1, 2, float("nan"), 7], 9)
        '▁▂▃ █'
        >>> as_blocks([1, 0.1, 0.01], 3, logarithmic=True)
        '█▇▆'
    """
    points = binned(values, width)
    known = [value for value in points if math.isfinite(value)]
    top, last = max([0.0, *known]), len(BLOCKS) - 1

    def height(value: float) -> int:
        if logarithmic:
            return last + math.floor(math.log10(value)) if value > 0 else 0
        return round(value / top * last) if top > 0 else 0

    return "".join(
        BLOCKS[min(last, max(0, height(v)))] if math.isfinite(v) else " " for v in points
    ).rstrip()


def binned(values: Sequence[float], count: int) -> list[float]:
    """Return at most so many numbers, each the mean of what it stands for.

    Args:
        values: in order; NaN where there is none.
        count: how many are wanted.

    Example:
        >>> binned([1, 2, 3, 4, 5, 6], 3)
        [1.5, 3.5, 5.5]
    """
    n = len(values)
    if n <= count:
        return list(values)
    edges = [round(i * n / count) for i in range(count + 1)]
    return [_mean(values[a:b]) for a, b in pairwise(edges)]


def _mean(values: Sequence[float]) -> float:
    known = [v for v in values if math.isfinite(v)]
    return sum(known) / len(known) if known else math.nan


def short(value: float, kind: str = "number") -> str:
    """Return a number in few characters; a dash where there is none.

    Args:
        value: what to write.
        kind: "number", "share" (in per cent), or "count" (of steps).

    Example:
        >>> short(0.123456), short(0.5, "share"), short(12.0, "count"), short(float("nan"))
        ('0.123', '50 %', '12', '–')
    """
    if math.isnan(value):
        return "–"
    if kind == "share":
        return f"{100 * value:.0f} %" if value >= 0.01 or value == 0 else "< 1 %"
    if kind == "count" and math.isfinite(value):
        return f"{value:.0f}"
    return f"{value:.3g}" if value == 0 or 1e-3 <= abs(value) < 1e4 else f"{value:.1e}"


# What is shown of a layer: the quantity, its name in a table, and how its numbers are written.
QUANTITIES = (
    ("horizon", "horizon", "count"),
    ("coverage", "covered", "share"),
    ("growth", "growth", "number"),
    ("beyond_lag", "beyond", "share"),
    ("saturated", "satur.", "share"),
    ("norm", "norm", "number"),
)
