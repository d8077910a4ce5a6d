"""The page and the figure that `throughtime bench` writes."""

from __future__ import annotations

import math
import platform
from html import escape
from pathlib import Path

import torch

from .. import kernels
from .bench_rows import KINDS, Findings, Row, geometric_mean
from .targets import outcomes

__all__ = ["page", "ratio_bars"]


def page(found: Findings, threads: int, kinds: tuple[str, ...] = tuple(KINDS)) -> str:
    """Return the results as Markdown: the machine, what was asked beside what was found, the lines.

    Args:
        found: what was measured.
        threads: how many threads both sides had.
        kinds: what was to be measured.
    """
    lines = ["# Speed on this machine", "", *_machine(threads), "", *_asked(found, kinds)]
    for kind in (kind for kind in KINDS if kind in kinds):
        title = KINDS[kind].title
        body = _section(kind, found)
        if body:
            lines += [f"## {title[0].upper()}{title[1:]}", "", *body]
    return "\n".join(lines)


def _asked(found: Findings, kinds: tuple[str, ...]) -> list[str]:
    """Return the table of what was asked; nothing where no target was to be measured."""
    words = {True: "yes", False: "**no**", None: "—"}
    judged = outcomes(found, kinds)
    if not judged:
        return []
    return [
        "## What was asked",
        "",
        "| what | asked | found | met | by medians | by first calls |",
        "|---|---|---|---|---|---|",
        *(
            f"| {o.what} | {o.asked} | {o.found} | {words[o.met]} | {o.by_medians} "
            f"| {o.by_firsts} |"
            for o in judged
        ),
        "",
    ]


def _section(kind: str, found: Findings) -> list[str]:
    """Return all that is said of one kind of line."""
    if kind in found.absent:
        return [f"Not measured: {found.absent[kind]}.", ""]
    if kind == "memory":
        return _memory(found) if found.memory else []
    if kind == "import":
        if found.startup is None:
            return []
        return [f"{found.startup:.0f} ms, the best of several processes that had torch.", ""]
    lines = [found.notes[kind], ""] if kind in found.notes else []
    for words in found.refused.get(kind, []):
        lines += [f"No speed for {words}.", ""]
    rows = found.of(kind)
    if rows:
        lines += [*_summary(rows), "", *_table(rows, KINDS[kind].against), ""]
    return lines


def _memory(found: Findings) -> list[str]:
    return [
        "| layer | throughtime | torch.nn | share |",
        "|---|---|---|---|",
        *(
            f"| {m.layer} | {m.ours:.0f} MB | {m.theirs:.0f} MB | {m.ours / m.theirs:.2f} |"
            for m in found.memory
        ),
        "",
    ]


def _machine(threads: int) -> list[str]:
    cpu = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                cpu = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    found = kernels.available()
    native = f"compiled for {found.isa}" if found.native else "in plain torch"
    return [
        f"{cpu}, {threads} threads; Python {platform.python_version()}, torch "
        f"{torch.__version__}; throughtime's sweeps {native}.",
        "",
        "Shapes are (B, T, I, H). Both sides run in turn in one process, 30 ms or one call at a "
        "time. The ratio is that of the smallest times, which other programs disturb least; beside "
        "it stand that of the medians and that of the first calls of a turn, which find the "
        "caches as the other side left them. "
        "Machine: what torch's 768 × 768 matrix product reached in the same run; a share of it may "
        "be above 100 %. Load: what the machine was running altogether, over the last minute. A "
        "ratio below 1 is a loss.",
    ]


def _summary(rows: list[Row]) -> list[str]:
    lines = ["| layer | geometric mean | nowhere below |", "|---|---|---|"]
    for layer in dict.fromkeys(row.layer for row in rows):
        ratios = [row.ratio for row in rows if row.layer == layer]
        lines.append(f"| {layer} | {geometric_mean(ratios):.2f} | {min(ratios):.2f} |")
    return lines


def _table(rows: list[Row], against: str) -> list[str]:
    head = (
        f"| layer | shape | ms | {against} ms | ratio | by medians | by first calls "
        "| GFLOP/s | machine | load |"
    )
    return [
        head,
        "|" + "---|" * (head.count("|") - 1),
        *(
            f"| {r.layer} | {r.shape} | {r.ours.least * 1e3:.2f} | {r.theirs.least * 1e3:.2f} "
            f"| {r.ratio:.2f} | {r.median_ratio:.2f} | {r.first_ratio:.2f} | {r.gflops:.0f} "
            f"| {r.machine:.0f} | {r.load:.1f} |"
            for r in rows
        ),
    ]


def ratio_bars(rows: list[Row]) -> str:
    """Draw the ratios as bars on a logarithmic scale, as SVG.

    Args:
        rows: what was measured.
    """
    left, width, line = 330, 520, 16
    title = "times as fast as torch.nn, or as what is named"
    low, high = math.log(0.5), math.log(max([2.0, *(row.ratio for row in rows)]) * 1.3)

    def across(ratio: float) -> float:
        return left + width * (math.log(max(ratio, 0.5)) - low) / (high - low)

    body, y = [], 30
    for kind in dict.fromkeys(row.kind for row in rows):
        body.append(f'<text x="8" y="{y}" font-weight="bold">{escape(KINDS[kind].title)}</text>')
        y += line + 2
        for row in (row for row in rows if row.kind == kind):
            start, end = sorted((across(1), across(row.ratio)))
            color = "#0072b2" if row.ratio >= 1 else "#d55e00"
            body.append(
                f'<text x="{left - 8}" y="{y}" text-anchor="end">{row.layer} {row.shape}</text>'
                f'<rect x="{start:.1f}" y="{y - 10}" width="{end - start:.1f}" height="11" '
                f'fill="{color}"/><text x="{end + 5:.1f}" y="{y}">{row.ratio:.2f}</text>'
            )
            y += line
        y += 8
    one = f'<line x1="{across(1):.1f}" x2="{across(1):.1f}" y1="14" y2="{y}" stroke="#444"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 70}" height="{y + 10}" '
        f'font-family="sans-serif" font-size="12"><title>{title}</title>'
        f'<rect width="100%" height="100%" fill="white"/>'
        f'<text x="{left}" y="12">{title}</text>{"".join(body)}{one}</svg>\n'
    )
