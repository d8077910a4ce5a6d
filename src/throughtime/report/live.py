"""A page of a training that is going on: small, without plotly.js, and it loads itself again."""

from __future__ import annotations

import math
import time
from html import escape
from pathlib import Path

from ..watch.sparkline import QUANTITIES, binned, short
from ..watch.training_run import FindingSpan, TrainingRun
from . import palette
from .lines import Axis, Curve, chart

__all__ = ["live_page"]

# What is drawn over training, and over what range: from 0 to at least that, close, or by decades.
DRAWN: tuple[tuple[str, str, Axis], ...] = (
    ("horizon", "Horizon, in steps back", Axis(top=1)),
    ("coverage", "Share of steps covered", Axis(top=1)),
    ("growth", "Growth of the norm a step back", Axis(close=True)),
    ("beyond_lag", "Share beyond the lag", Axis(top=0.1)),
    ("saturated", "Saturated share", Axis(top=0.1)),
    ("norm", "Norm of the gradient", Axis(logarithmic=True)),
)
POINTS = 400
DASHES = ("", "12 6", "3 5", "14 5 3 5", "24 8")
MOST_GONE = 8
STYLE = """
.legend { display: flex; flex-wrap: wrap; gap: 4px 20px; padding: 0; list-style: none;
          margin: 8px 0; }
.legend svg { width: 34px; height: 10px; margin-right: 8px; vertical-align: middle; }
.legend path, .lines path { fill: none; stroke-width: 2px; vector-effect: non-scaling-stroke; }
.charts { display: grid; gap: 28px 36px; margin-top: 16px;
          grid-template-columns: repeat(auto-fit, minmax(min(340px, 100%), 1fr)); }
.lines { margin: 0; min-width: 0; }
.lines figcaption { font-weight: 600; font-size: 15px; }
.lines .frame { position: relative; height: 190px; margin: 12px 14px 22px 48px; }
.lines svg { position: absolute; inset: 0; width: 100%; height: 100%; overflow: visible; }
.lines .grid line { stroke: var(--line); stroke-width: 1px; vector-effect: non-scaling-stroke; }
.lines .frame span { position: absolute; font-size: 12px; line-height: 1; color: var(--muted);
                     font-variant-numeric: tabular-nums; }
.lines .y { right: calc(100% + 8px); transform: translateY(50%); white-space: nowrap; }
.lines .x { top: calc(100% + 8px); transform: translateX(-50%); }
.lines .across { font-size: 12px; color: var(--muted); text-align: right; margin: 0 14px 0 0; }
.found { display: grid; gap: 14px; margin-top: 16px; }
.found article { margin: 0; }
.found + h3 { margin-top: 20px; }
.top .facts { max-width: none; }
.found .finding h3 { margin: 6px 0 4px; font-size: 17px; }
.wide { overflow-x: auto; }
.wide table { min-width: 560px; }
"""
# Loads the page again, unless nobody looks, and stays where the reader was.
SCRIPT = """
var place = sessionStorage.getItem("place");
if (place) scrollTo(0, Number(place));
addEventListener("pagehide", function () { sessionStorage.setItem("place", scrollY); });
setInterval(function () { if (!document.hidden) location.reload(); }, %d);
"""


def live_page(run: TrainingRun, name: str, every: float | None = None) -> str:
    """Return the page of a training.

    Args:
        run: as far as it was read; at least one record.
        name: of its file.
        every: after how many seconds it loads itself again; None: it stays as it is.

    Example:
        >>> from throughtime.watch import Record
        >>> run = TrainingRun()
        >>> run.take(Record(1, 0.0, {"throughtime/rnn.l0/horizon": 12.0}))
        >>> page = live_page(run, "run.jsonl", every=5)
        >>> "rnn.l0" in page, "location.reload" in page, "location.reload" in live_page(run, "")
        (True, True, False)
    """
    assert run.last is not None
    here = Path(__file__).parent
    style = (here / "style.css").read_text(encoding="utf-8") + STYLE
    colours = {scheme: palette.css_variables(scheme) for scheme in palette.SCHEMES}
    script = "" if every is None else f"<script>{SCRIPT % (1000 * every)}</script>"
    title = escape(f"{name}, step {run.last.step}")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"<title>{title}</title><style>:root {{ {colours['light']} --font: {palette.FONT}; "
        "color-scheme: light dark; } @media (prefers-color-scheme: dark) "
        f"{{ :root {{ {colours['dark']} }} }}\n{style}</style></head><body>"
        f"{_top(run, name, every)}<main>{_findings(run)}{_numbers(run)}{_courses(run)}</main>"
        f"<footer></footer>{script}</body></html>\n"
    )


def _top(run: TrainingRun, name: str, every: float | None) -> str:
    assert run.last is not None
    follows = (
        "it is no longer followed"
        if every is None
        else f"the page loads itself again every {every:g} s"
    )
    written = time.strftime("%Y-%m-%d %H:%M:%S")
    when = run.last.time
    measured = (
        "" if math.isnan(when) else f"measured {time.strftime('%H:%M:%S', time.localtime(when))}, "
    )
    return (
        f'<header class="top"><p class="eyebrow">{escape(name)}</p>'
        f"<h1>Step {run.last.step:,}</h1><p class='facts'>{run.count:,} records; the last one "
        f"{measured}shown {written}; {follows}.</p></header>"
    )


def _findings(run: TrainingRun) -> str:
    present = "".join(map(_card, run.present))
    if not present:
        sound = palette.SEVERITIES["sound"]
        present = f"<p>{_badge(sound)} Nothing was found at the last step.</p>"
    gone = "".join(
        f"<li>{escape(seen.code)}{_in(seen)}, from step {seen.since:,} to {seen.last:,}</li>"
        for seen in run.gone[:MOST_GONE]
    )
    past = f"<h3>Gone again</h3><ul>{gone}</ul>" if gone else ""
    return f'<section><h2>What is found</h2><div class="found">{present}</div>{past}</section>'


def _card(seen: FindingSpan) -> str:
    severity = palette.SEVERITIES.get(seen.severity, palette.SEVERITIES["note"])
    return (
        f'<article class="finding" style="--severity:{severity.colour};--on:{severity.ink}">'
        f"{_badge(severity)}<h3>{escape(seen.code)}{_in(seen)}</h3>"
        f"<p>{escape(seen.what)}</p><p class='muted'>Since step {seen.since:,}.</p></article>"
    )


def _badge(severity: palette.Severity) -> str:
    return (
        f'<span class="badge" style="--severity:{severity.colour};--on:{severity.ink}">'
        f'<span class="sign" aria-hidden="true">{severity.sign}</span>{severity.word}</span>'
    )


def _in(seen: FindingSpan) -> str:
    return f" in <code>{escape(seen.layer)}</code>" if seen.layer else ""


def _numbers(run: TrainingRun) -> str:
    """Return the last numbers of each layer."""
    shown = [row for row in QUANTITIES if any(row[0] in q for q in run.layers.values())]
    head = "".join(f"<th>{word}</th>" for _, word, _ in shown)
    rows = "".join(
        f"<tr><th>{escape(layer or 'the model')}</th>"
        + "".join(
            f'<td class="number">{short(q[n].last, kind) if n in q else "–"}</td>'
            for n, _, kind in shown
        )
        + "</tr>"
        for layer, q in run.layers.items()
    )
    return (
        f'<section><h2>Now</h2><div class="wide"><table><thead><tr><th>layer</th>{head}</tr>'
        f"</thead><tbody>{rows}</tbody></table></div></section>"
    )


def _look(number: int) -> tuple[str, str]:
    """Return the colour and the dashes of a layer."""
    colours = palette.COLORWAY
    return colours[number % len(colours)], DASHES[number // len(colours) % len(DASHES)]


def _courses(run: TrainingRun) -> str:
    """Return the curves over training, and the last gradient by lag."""
    legend, charts = [], []
    for number, layer in enumerate(run.layers):
        colour, dash = _look(number)
        line = f'<path d="M0 5H34" stroke="{colour}" stroke-dasharray="{dash}"/>'
        legend.append(
            f"<li><svg aria-hidden='true'>{line}</svg>{escape(layer or 'the model')}</li>"
        )
    for quantity, title, axis in DRAWN:
        curves = []
        for number, (layer, quantities) in enumerate(run.layers.items()):
            series = quantities.get(quantity)
            if series is not None:
                x, y = binned(series.steps, POINTS), binned(series.values, POINTS)
                curves.append(Curve(layer, *_look(number), x, y))
        charts.append(chart(title, curves, "training step", axis))
    names = list(run.layers)
    by_lag = [
        Curve(layer, *_look(names.index(layer) if layer in names else 0), range(len(p)), p)
        for layer, p in run.profile.items()
    ]
    charts.append(
        chart("Gradient by lag, at the last step", by_lag, "lag, in steps", Axis(logarithmic=True))
    )
    return (
        f'<section><h2>Over training</h2><ul class="legend">{"".join(legend)}</ul>'
        f'<div class="charts">{"".join(charts)}</div></section>'
    )
