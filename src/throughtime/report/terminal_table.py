"""The verdicts and profiles of a flow as a table for the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from ..diagnosis import Diagnosis, diagnose
from ..flow import LayerView
from ..flow.view import least
from .arrange import array
from .numbers import number, percent

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.table import Table

__all__ = ["FlowTable", "sparkline", "table"]

STYLES = {"HEALTHY": "green", "VANISHING": "blue", "EXPLODING": "red", "NONFINITE": "magenta"}
BARS, ASCII_BARS = "▁▂▃▄▅▆▇█", "_.-:=+*#"
DECADES = 8.0


def sparkline(profile: Sequence[float], width: int = 20, *, ascii_only: bool = False) -> str:
    """Return a lag profile in one line of text: full height is lag 0, each eighth down a decade.

    ``0`` stands for exactly 0, ``!`` for inf, a blank for a lag that was not measured.

    Args:
        profile: from lag 0 on; thinned to ``width`` lags, the first and the last among them.
        width: how many characters at most.
        ascii_only: for a terminal that has no block characters.

    Example:
        >>> sparkline([1.0, 1e-3, 1e-7, 0.0])
        '█▅▁0'
    """
    bars, last = ASCII_BARS if ascii_only else BARS, len(profile) - 1
    if last >= width:
        profile = [profile[round(i * last / max(width - 1, 1))] for i in range(width)]
    return "".join(_bar(float(value), bars) for value in profile)


def _bar(value: float, bars: str) -> str:
    if math.isnan(value):
        return " "
    if math.isinf(value):
        return "!"
    if value <= 0:
        return "0"
    height = len(bars) * (1 + math.log10(value) / DECADES)
    return bars[max(0, min(len(bars) - 1, math.ceil(height) - 1))]


def table(
    flow: Mapping[str, LayerView], diagnosis: Mapping[str, Diagnosis] | None = None
) -> FlowTable:
    """Return a Rich table of a flow: verdict, horizon, profile, first non-finite (eq. 7, 10).

    Args:
        flow: what ``trace.flow`` returned.
        diagnosis: what `diagnose` returned for it; judged here where absent.

    Example:
        >>> model = torch.nn.GRU(3, 5)
        >>> with tt.trace(model) as trace:
        ...     losses = model(torch.randn(7, 2, 3))[0].pow(2).mean((1, 2))
        >>> flow = trace.flow(losses)
        >>> table(flow).build().columns[2].header
        'horizon'
    """
    return FlowTable(flow, diagnose(flow) if diagnosis is None else diagnosis)


class FlowTable:
    """A table that Rich prints, in the characters that the terminal has."""

    def __init__(self, flow: Mapping[str, LayerView], diagnosis: Mapping[str, Diagnosis]) -> None:
        """Take what `table` was given."""
        self.flow, self.diagnosis = flow, diagnosis

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        """Return the table for this terminal."""
        yield self.build(ascii_only=options.ascii_only)

    def build(self, *, ascii_only: bool = False) -> Table:
        """Return it as a plain Rich table.

        Args:
            ascii_only: without block characters, superscripts and arrows.
        """
        from rich.table import Table
        from rich.text import Text

        broken = any(layer.first_nonfinite is not None for layer in self.flow.values())
        out = Table(box=None, pad_edge=False, header_style="dim")
        heads = ["layer", "verdict", "horizon", "profile by lag", "of lag 0"]
        for head in heads + ["first bad step"] * broken:
            out.add_column(head, no_wrap=True)
        for name, count in least(self.flow).items():
            layer = self.flow[name]
            profile = array(layer.lag_profile()).tolist()
            judged = self.diagnosis[name]
            verdict = judged.verdict.name
            row = [
                Text(name or "the model", overflow="fold").append(
                    "" if count == 1 else f"\nleast of {count} runs", "dim"
                ),
                Text.assemble((verdict, f"bold {STYLES.get(verdict, '')}"), _shares(judged)),
                _horizon(layer, len(profile) - 1, ascii_only),
                sparkline(profile, ascii_only=ascii_only),
                _at_lags(profile, ascii_only),
            ]
            out.add_row(*row, *([_first(layer)] if broken else []))
        return out


def _shares(judged: Diagnosis) -> str:
    """Return the share of the rows for each verdict, one a line, where not all have the same."""
    if sum(share > 0 for share in judged.shares.values()) < 2:
        return ""
    ordered = sorted(judged.shares.items(), key=lambda item: item[0] is not judged.verdict)
    lines = [f"{percent(share)} of rows" for _, share in ordered[:1]]
    lines += [f"{percent(share)} {verdict.name.lower()}" for verdict, share in ordered[1:]]
    return "".join(f"\n{line}" for line in lines)


def _horizon(layer: LayerView, longest: int, ascii_only: bool) -> str:
    """Return the horizon; "≥" where it is the end of the window that was measured."""
    text = f"{layer.horizon_text()} of {longest}"
    return text.replace("≥", ">=") if ascii_only else text


def _at_lags(profile: list[float], ascii_only: bool) -> str:
    """Return the profile at the last lag measured and the two powers of ten before, one a line."""
    last = max((lag for lag, value in enumerate(profile) if not math.isnan(value)), default=0)
    lags = [lag for lag in (1, 10, 100, 1000) if lag < last] + [last]
    show = "{:.1e}".format if ascii_only else lambda value: number(value, 2)
    return "\n".join(f"lag {lag}: {show(profile[lag])}" for lag in lags[-3:])


def _first(layer: LayerView) -> str:
    first = layer.first_nonfinite
    return "none" if first is None else f"{first.kind}, step {first.step}\n{first.direction}"
