"""The page and the figure that `throughtime bench` writes."""

from __future__ import annotations

import math
import platform
from dataclasses import dataclass
from html import escape
from pathlib import Path

import torch

from .. import kernels

__all__ = ["Memory", "Row", "figure", "page"]


@dataclass
class Row:
    """One line of the results: seconds, smallest and median, of both, and the machine meanwhile."""

    kind: str
    layer: str
    shape: tuple[int, int, int, int]
    ours: float
    theirs: float
    ours_median: float
    theirs_median: float
    gflops: float
    machine: float
    load: float
    runs: int

    @property
    def ratio(self) -> float:
        """How many times as fast: by the smallest times, which other programs disturb least."""
        return self.theirs / self.ours

    @property
    def median_ratio(self) -> float:
        """The same by the medians."""
        return self.theirs_median / self.ours_median


@dataclass
class Memory:
    """Peak memory of a training step in MB, beyond model and input."""

    layer: str
    ours: float
    theirs: float


def page(rows: list[Row], memory: list[Memory], threads: int, kinds: dict[str, str]) -> str:
    """Give the results as Markdown, the machine first.

    Args:
        rows: what was measured.
        memory: what was measured of memory.
        threads: how many threads both sides had.
        kinds: what each kind of line is called.
    """
    lines = ["# Speed on this machine", "", *_machine(threads), ""]
    for kind, title in kinds.items():
        of_kind = [row for row in rows if row.kind == kind]
        if of_kind:
            lines += [f"## {title[0].upper()}{title[1:]}", "", *_summary(of_kind), ""]
            lines += [*_table(of_kind), ""]
    if memory:
        lines += ["## Peak memory of a training step, (64, 200, 256, 256), float32", ""]
        lines += ["| layer | throughtime | torch.nn | share |", "|---|---|---|---|"]
        lines += [
            f"| {m.layer} | {m.ours:.0f} MB | {m.theirs:.0f} MB | {m.ours / m.theirs:.2f} |"
            for m in memory
        ]
        lines.append("")
    return "\n".join(lines)


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
        "Shapes are (B, T, I, H). Both sides run in turn in one process. The ratio is that of the "
        "smallest times, which other programs disturb least; the median ratio stands beside it. "
        "Machine: what a 768 × 768 matrix product reached in the same run. Load: what the machine "
        "was running altogether, over the last minute. A ratio below 1 is a loss.",
    ]


def _mean(values: list[float]) -> float:
    return math.exp(sum(math.log(v) for v in values) / len(values))


def _summary(rows: list[Row]) -> list[str]:
    lines = ["| layer | geometric mean | nowhere below |", "|---|---|---|"]
    for layer in dict.fromkeys(row.layer for row in rows):
        ratios = [row.ratio for row in rows if row.layer == layer]
        lines.append(f"| {layer} | {_mean(ratios):.2f} | {min(ratios):.2f} |")
    return lines


def _table(rows: list[Row]) -> list[str]:
    head = "| layer | shape | ms | torch.nn ms | ratio | median ratio | GFLOP/s | machine | load |"
    return [
        head,
        "|" + "---|" * (head.count("|") - 1),
        *(
            f"| {r.layer} | {r.shape} | {r.ours * 1e3:.2f} | {r.theirs * 1e3:.2f} "
            f"| {r.ratio:.2f} | {r.median_ratio:.2f} | {r.gflops:.0f} | {r.machine:.0f} "
            f"| {r.load:.1f} |"
            for r in rows
        ),
    ]


def figure(rows: list[Row], kinds: dict[str, str]) -> str:
    """Draw the ratios as bars on a logarithmic scale, as SVG.

    Args:
        rows: what was measured.
        kinds: what each kind of line is called.
    """
    left, width, line = 330, 520, 16
    low, high = math.log(0.5), math.log(max([2.0, *(row.ratio for row in rows)]) * 1.3)

    def across(ratio: float) -> float:
        return left + width * (math.log(max(ratio, 0.5)) - low) / (high - low)

    body, y = [], 30
    for kind in dict.fromkeys(row.kind for row in rows):
        body.append(f'<text x="8" y="{y}" font-weight="bold">{escape(kinds[kind])}</text>')
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
        'font-family="sans-serif" font-size="12"><title>Times as fast as torch.nn</title>'
        f'<rect width="100%" height="100%" fill="white"/>'
        f'<text x="{left}" y="12">times as fast as torch.nn</text>{"".join(body)}{one}</svg>\n'
    )
