"""The verdicts and profiles of a flow as a table for the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .arrange import array
from .numbers import number

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

__all__ = ["Sparkline", "table"]

STYLES = {"HEALTHY": "green", "VANISHING": "blue", "EXPLODING": "red", "NONFINITE": "magenta"}
BARS = "▁▂▃▄▅▆▇█"
ASCII_BARS = "_.-:=+*#"
DECADES = 8.0


class Sparkline:
    """A lag profile in one line of text: full height is lag 0, each eighth down a decade.

    ``0`` stands for exactly 0, ``!`` for inf, a blank for a lag that was not measured. Where the
    terminal has no block characters, ASCII stands in.
    """

    def __init__(self, profile: Sequence[float], width: int = 20) -> None:
        """Take a profile; it is thinned to ``width`` lags, the first and the last among them."""
        last = len(profile) - 1
        at = [round(i * last / max(width - 1, 1)) for i in range(width)] if last >= width else None
        self.values = [float(v) for v in profile] if at is None else [float(profile[i]) for i in at]

    def text(self, *, ascii_only: bool = False) -> str:
        """Give the line.

        Example:
            >>> Sparkline([1.0, 1e-3, 1e-7, 0.0]).text()
            '█▅▁0'
        """
        bars = ASCII_BARS if ascii_only else BARS
        return "".join(_bar(value, bars) for value in self.values)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """Give the width: all of it, because half a profile would mislead."""
        from rich.measure import Measurement

        return Measurement(len(self.values), len(self.values))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        """Give the line that this terminal can show."""
        from rich.text import Text

        yield Text(self.text(ascii_only=options.ascii_only), no_wrap=True)


def _bar(value: float, bars: str) -> str:
    if math.isnan(value):
        return " "
    if math.isinf(value):
        return "!"
    if value <= 0:
        return "0"
    height = len(bars) * (1 + math.log10(value) / DECADES)
    return bars[max(0, min(len(bars) - 1, math.ceil(height) - 1))]


def table(flow: Mapping[str, Any], diagnosis: Mapping[str, Any] | None = None) -> Table:
    """Give a Rich table of a flow: verdict, horizon, profile by lag, first non-finite (eq. 7, 10).

    Args:
        flow: what ``trace.flow`` gave.
        diagnosis: what `diagnose` gave for it; judged here where absent.
    """
    from rich.table import Table
    from rich.text import Text

    if diagnosis is None:
        from ..diagnosis import diagnose

        diagnosis = diagnose(flow)
    broken = any(layer.first_nonfinite is not None for layer in flow.values())
    out = Table(box=None, pad_edge=False, header_style="dim")
    out.add_column("layer", no_wrap=True)
    out.add_column("verdict", no_wrap=True)
    out.add_column("horizon", no_wrap=True)
    out.add_column("profile by lag →", no_wrap=True)
    out.add_column("of lag 0", no_wrap=True)
    if broken:
        out.add_column("first bad step", no_wrap=True)
    for name, layer in flow.items():
        profile = array(layer.lag_profile()).tolist()
        verdict = diagnosis[name].verdict.name
        row = [
            Text(name),
            Text(verdict, style=f"bold {STYLES.get(verdict, '')}"),
            f"{layer.horizon()} of {len(profile) - 1}",
            Sparkline(profile),
            _at_lags(profile),
        ]
        out.add_row(*row, *([_first(layer)] if broken else []))
    return out


def _at_lags(profile: list[float]) -> str:
    """Give the profile at lag 1, 10, 100, … and the last, one below the other."""
    last = len(profile) - 1
    lags = [lag for lag in (1, 10, 100, 1000) if lag < last] + [last]
    return "\n".join(f"lag {lag}: {number(profile[lag], 2)}" for lag in lags[-3:])


def _first(layer: Any) -> str:
    first = layer.first_nonfinite
    return "none" if first is None else f"{first.kind}, step {first.step}\n{first.direction}"
