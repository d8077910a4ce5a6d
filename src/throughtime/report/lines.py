"""Lines over an axis as HTML that needs no script: curves that stretch, labels that do not."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

__all__ = ["Axis", "Curve", "chart", "ticks"]

# The drawing's own units, stretched to whatever room there is.
SIZE = 1000
# A logarithmic axis shows at most so many decades below its top.
DECADES = 8


class Curve(NamedTuple):
    """One line.

    Attributes:
        name: of what it shows.
        colour: as CSS has it.
        dash: lengths as SVG has them, or "".
        x: in order.
        y: NaN where there is none, which is a gap.
    """

    name: str
    colour: str
    dash: str
    x: Sequence[float]
    y: Sequence[float]


class Axis(NamedTuple):
    """The axis at the side.

    Attributes:
        top: to where it goes at least.
        close: whether it begins at the smallest value instead of 0.
        logarithmic: whether it goes by decades; what is not above 0 is left out.
    """

    top: float = 0.0
    close: bool = False
    logarithmic: bool = False

    def range(self, ys: Sequence[float]) -> tuple[float, float]:
        """Return where it begins and ends; of a logarithmic one in powers of ten.

        Args:
            ys: what is drawn, finite.
        """
        low, high = min(ys), max(ys)
        if self.logarithmic:
            high = math.ceil(high - 1e-9)
            return max(min(math.floor(low), high - 1), high - DECADES), high
        room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
        if self.close:
            return low - room, high + room
        return min(0.0, low), max(high + room, self.top)


def chart(title: str, curves: Iterable[Curve], across: str, side: Axis) -> str:
    """Return a figure of some curves over one axis.

    Args:
        title: its heading.
        curves: what to draw.
        across: what the axis below is.
        side: the axis at the side.

    Example:
        >>> html = chart("a", [Curve("l0", "red", "", [1, 2], [0.5, 1])], "step", Axis())
        >>> html.count("<svg"), html.count("<path")
        (1, 1)
    """
    drawn = [_usable(curve, side.logarithmic) for curve in curves]
    xs = [x for curve in drawn for x in curve.x]
    ys = [y for curve in drawn for y in curve.y if math.isfinite(y)]
    if not ys:
        return ""
    left, right = min(xs), max(max(xs), min(xs) + 1)
    low, high = side.range(ys)
    paths = "".join(_path(curve, (left, right), (low, high)) for curve in drawn)
    y_ticks = [
        (v, _power(v) if side.logarithmic else f"{v:g}")
        for v in (_decades(low, high) if side.logarithmic else ticks(low, high, 4))
    ]
    grid = "".join(
        f'<line x1="0" x2="{SIZE}" y1="{_at(v, low, high, True)}" y2="{_at(v, low, high, True)}"/>'
        for v, _ in y_ticks
    )
    beside = "".join(
        f'<span class="y" style="bottom:{_share(v, low, high):.1f}%">{text}</span>'
        for v, text in y_ticks
    )
    below = "".join(
        f'<span class="x" style="left:{_share(v, left, right):.1f}%">{v:g}</span>'
        for v in ticks(left, right, 4)
    )
    last = ", ".join(f"{c.name} {c.y[-1]:.3g}" for c in drawn if c.y and math.isfinite(c.y[-1]))
    said = escape(f"{title}. Last: {last or 'nothing'}.", quote=True)
    return (
        f'<figure class="lines"><figcaption>{escape(title)}</figcaption><div class="frame">'
        f'<svg viewBox="0 0 {SIZE} {SIZE}" preserveAspectRatio="none" role="img" '
        f'aria-label="{said}"><g class="grid">{grid}</g>{paths}</svg>{beside}{below}</div>'
        f'<p class="across">{escape(across)}</p></figure>'
    )


def ticks(low: float, high: float, count: int) -> list[float]:
    """Return round numbers within a range, about so many.

    Args:
        low: where it begins.
        high: where it ends.
        count: how many are wanted.

    Example:
        >>> ticks(0, 97, 4)
        [0.0, 25.0, 50.0, 75.0]
    """
    rough = (high - low) / count
    if not rough > 0 or not math.isfinite(rough):
        return [low]
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(n * step, 12) for n in range(first, last + 1)]


def _usable(curve: Curve, logarithmic: bool) -> Curve:
    def of(y: float) -> float:
        if not math.isfinite(y) or (logarithmic and y <= 0):
            return math.nan
        return math.log10(y) if logarithmic else y

    return curve._replace(y=[of(y) for y in curve.y])


def _decades(low: float, high: float) -> list[float]:
    step = max(1, math.ceil((high - low) / 4))
    return [float(n) for n in range(int(high), math.ceil(low) - 1, -step)]


def _power(exponent: float) -> str:
    return f"10<sup>{exponent:.0f}</sup>".replace("-", "−") if exponent else "1"


def _share(value: float, low: float, high: float) -> float:
    return 100 * (value - low) / (high - low)


def _at(value: float, low: float, high: float, upward: bool = False) -> str:
    share = min(1.0, max(0.0, (value - low) / (high - low)))
    return f"{SIZE * (1 - share if upward else share):.1f}".removesuffix(".0")


def _path(curve: Curve, across: tuple[float, float], side: tuple[float, float]) -> str:
    """Return one curve; a point between two gaps is a short line, so that it is seen."""
    steps, drawing = [], False
    for x, y in zip(curve.x, curve.y, strict=True):
        if not math.isfinite(y):
            drawing = False
            continue
        place = f"{_at(x, *across)} {_at(y, *side, True)}"
        steps.append(f"L{place}" if drawing else f"M{place}h.1")
        drawing = True
    dash = f' stroke-dasharray="{curve.dash}"' if curve.dash else ""
    return f'<path d="{"".join(steps)}" stroke="{curve.colour}"{dash}/>'
