"""A treatment as text of at most 80 columns."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .treatment import Row, Treatment

__all__ = ["said", "short_number", "text"]

WIDTH = 79


def text(treatment: Treatment) -> str:
    """Return a table, one line a row, and below it what follows.

    Args:
        treatment: what `treat` returned.
    """
    scored = treatment.trained
    heads = ["remedy", "helps", "typical", "best units", "units ≥1 %", "covers", "ms"]
    if scored:
        heads = ["remedy", "helps", "score", "gain (95 %)", "updates", "best units", "ms"]
    lines = [heads] + [_cells(row, scored) for row in treatment.rows if row.error is None]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    table = [
        "  ".join(
            cell.ljust(w) if i < 2 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    table.insert(1, "  ".join("─" * w for w in widths))
    return "\n".join([_head(treatment), *table, *_below(treatment)])


def _head(treatment: Treatment) -> str:
    of = "asked for" if treatment.asked else "the first step of this batch"
    return f"gradient {treatment.lag} steps back ({of}), relative to lag 0:"


def _cells(row: Row, scored: bool) -> list[str]:
    reach = row.after
    seconds = math.nan if row.measured is None else row.measured.seconds
    answer = "" if row.remedy is None else said(row, scored)
    if reach is None:
        return [row.name, answer, *[""] * 5]
    nonfinite = row.measured is not None and row.measured.nonfinite
    best, share = short_number(reach.best), f"{100 * reach.share:.0f} %"
    ms = f"{1000 * seconds:.3g}"
    if scored:
        score = "" if row.score is None else f"{row.score.mean:.3g}"
        return [row.name, answer, score, _gain(row), str(row.updates), best, ms]
    typical = "inf/NaN" if nonfinite else short_number(reach.at_lag)
    return [row.name, answer, typical, best, share, f"{100 * reach.coverage:.0f} %", ms]


def said(row: Row, scored: bool) -> str:
    """Return whether a row helps: "yes", "no", "further", or "?" where only training could tell.

    Args:
        row: of a remedy.
        scored: whether copies were trained.
    """
    if row.helps:
        return "yes"
    if row.remedy is not None and row.remedy.during is not None and not scored:
        return "?"
    return "further" if row.further and not scored else "no"


def _gain(row: Row) -> str:
    gain = row.gain
    if gain is None:
        return ""
    if not gain.known:
        return f"{gain.mean:+.3g} (?)"
    return f"{gain.mean:+.2g} ± {gain.high - gain.mean:.1g}"


def _below(treatment: Treatment) -> list[str]:
    found = []
    first = treatment.rows[0].measured
    if first is not None and first.found:
        found.append(f"found in the model as it is: {', '.join(first.found)}")
    found += [f"{row.name} could not be tried: {row.error}" for row in treatment.rows if row.error]
    shown = [said(row, treatment.trained) for row in treatment.rows[1:] if row.error is None]
    if "further" in shown:
        found.append("further: ten times as much gets through, but under 1 %, or the cause stays")
    if "?" in shown:
        found.append("?: what it changes shows in training alone; give train=")
    if treatment.interrupted:
        found.append("interrupted: remedies that are not listed were not tried")
    lines = [part for line in found for part in textwrap.wrap(line, WIDTH, subsequent_indent="  ")]
    if not treatment.needed:
        lines += ["", "none needed: the steps are reached as it is"]
    if treatment.best is not None:
        best = treatment[treatment.best]
        why = textwrap.wrap(f"best: {best.name} ({best.why})", WIDTH, subsequent_indent="  ")
        lines += ["", *why, *best.code().splitlines()]
    elif treatment.needed:
        lines += ["", "none of these helps"]
    return lines


def short_number(value: float) -> str:
    """Return a number in few characters: "0.12", "3e-07".

    Args:
        value: any.

    Example:
        >>> short_number(0.1234), short_number(3.2e-7), short_number(0.0), short_number(44000.0)
        ('0.12', '3e-07', '0', '4e+04')
    """
    if not math.isfinite(value) or value == 0:
        return "0" if value == 0 else str(value)
    return f"{value:.2g}" if 1e-3 <= abs(value) < 1e3 else f"{value:.0e}"
