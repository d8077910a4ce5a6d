"""The verdicts and profiles of a flow as a table for the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from ..diagnosis import Diagnosis, Finding, diagnose, examine
from ..diagnosis.found import NOT_SAID
from ..diagnosis.grouping import grouped
from ..flow import LayerView, NonFinite
from ..flow.view import least
from .arrange import array
from .number_text import number, percent

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.table import Table
    from rich.text import Text

__all__ = ["FlowTable", "sparkline", "table"]

# By how bad it is: a verdict, and a finding.
STYLES = {"HEALTHY": "green", "VANISHING": "yellow", "EXPLODING": "yellow", "NONFINITE": "red"}
SEVERE = {"error": "red", "warning": "yellow", "note": "dim"}
BARS, ASCII_BARS = "▁▂▃▄▅▆▇█", "_.-:=+*#"
DECADES = 8.0
LEGEND = "bars: logarithmic, full at the start, empty at 10⁻⁸ of it; 0: exactly 0; !: inf"


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
    flow: Mapping[str, LayerView],
    diagnosis: Mapping[str, Diagnosis] | None = None,
    findings: Sequence[Finding] | None = None,
) -> FlowTable:
    """Return a flow for Rich to print: verdict, horizon and profile, then what is wrong (eq. 7).

    Args:
        flow: what ``trace.flow`` returned.
        diagnosis: what `diagnose` returned for it; judged here where absent.
        findings: what `examine` returned for it; examined here where absent.

    Example:
        >>> model = torch.nn.GRU(3, 5)
        >>> with tt.trace(model) as trace:
        ...     losses = model(torch.randn(7, 2, 3))[0].pow(2).mean((1, 2))
        >>> flow = trace.flow(losses)
        >>> table(flow).build().columns[2].header
        'horizon'
    """
    judged = diagnose(flow) if diagnosis is None else diagnosis
    return FlowTable(flow, judged, examine(flow) if findings is None else findings)


class FlowTable:
    """A table that Rich prints, in the characters that the terminal has."""

    def __init__(
        self,
        flow: Mapping[str, LayerView],
        diagnosis: Mapping[str, Diagnosis],
        findings: Sequence[Finding],
    ) -> None:
        """Take what `table` was given."""
        self.flow, self.diagnosis, self.findings = flow, diagnosis, findings

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table | Text]:
        """Return what is wrong, and the table, for this terminal."""
        yield from self._findings()
        yield self.build(ascii_only=options.ascii_only)
        yield from self._below(options.ascii_only)

    def _findings(self) -> Iterator[Text]:
        """Return what is wrong, each kind once, and what to change."""
        from rich.text import Text

        for group in grouped(self.findings):
            first = group.first
            after = "" if first.follows is None else f" (follows from {first.follows})"
            yield Text.assemble(
                (first.severity, f"bold {SEVERE[first.severity]}"),
                (f" {first.code}", "bold"),
                f" in {group.where}{after}: {first.what}",
            )
            yield Text(f"What to change: {first.remedy}\n")
        if not self.findings:
            yield Text.assemble(("nothing found", "bold green"), f". {NOT_SAID}\n")

    def _below(self, ascii_only: bool) -> Iterator[Text]:
        """Return how the bars are meant, and where the first inf or NaN is."""
        from rich.text import Text

        for name in least(self.flow):
            first = self.flow[name].first_nonfinite
            if first is not None:
                yield Text(f"{name or 'the model'}: first {_first(first)}")
        yield Text(LEGEND.replace("10⁻⁸", "1e-8") if ascii_only else LEGEND, "dim")

    def build(self, *, ascii_only: bool = False) -> Table:
        """Return it as a plain Rich table.

        Args:
            ascii_only: without block characters, superscripts and arrows.
        """
        from rich.table import Table
        from rich.text import Text

        out = Table(box=None, pad_edge=False, header_style="dim")
        for head in ("layer", "verdict", "horizon", "by steps back", "left of the start"):
            out.add_column(head, overflow="fold", no_wrap=head not in ("layer", "verdict"))
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
                sparkline(profile, 16, ascii_only=ascii_only),
                _at_lags(profile, ascii_only),
            ]
            out.add_row(*row)
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
    return "\n".join(f"at {lag}: {show(profile[lag])}" for lag in lags[-3:])


def _first(first: NonFinite) -> str:
    kind = {"nan": "NaN"}.get(first.kind, first.kind)
    return f"{kind}, step {first.step}, {first.where}"
