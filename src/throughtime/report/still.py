"""A figure as a still drawing, in SVG: a hundredth of what one weighs that needs a library.

It reads the traces that a `Drawing` holds for Plotly, of the kinds that a notebook shows: lines,
bands, marks and maps, with their axes, labels and legend. It has no script, so that it is seen
wherever a notebook is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape
from typing import Any

import numpy as np

from . import palette
from .axes import Axis, axis_of
from .bitmap import mixed, png_uri
from .figures.base import Drawing
from .number_text import symbols

__all__ = ["still_svg"]

WIDTH = 720  # where nothing else is said
LEFT, RIGHT, TOP, BAR = 66, 16, 16, 56
ROW = 20  # of the legend
LETTER = 6.6  # typical width of one, at 12 px
LEVELS = 96  # colours of a map
CELLS = 220  # a map finer than this cannot be told apart at this width
DASHES = {"dash": "7 5", "dot": "2 4", "dashdot": "7 4 2 4", "longdash": "12 5"}
Entry = tuple[dict[str, Any], int, float]  # what the legend names, its row, its place there
SIGNS = {"triangle-down": "▼", "x": "✕"}
SCALE = (
    "#440154", "#482878", "#3e4989", "#31688e", "#26828e",
    "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725",
)  # fmt: skip


def still_svg(drawing: Drawing, id: str, width: int = WIDTH) -> str:
    """Return a figure as an SVG element that takes its ink from the page around it.

    Args:
        drawing: the figure; one that is empty gives an empty string.
        id: unique on the page.
        width: in pixels, at which letters have their own size.

    Example:
        >>> from throughtime.report.figures import draw
        >>> model = torch.nn.GRU(3, 5)
        >>> with tt.trace(model) as trace:
        ...     losses = model(torch.randn(7, 2, 3))[0].pow(2).mean((1, 2))
        >>> still_svg(draw(trace.flow(losses), "lag", "l0"), "lag").count("<svg")
        1
    """
    if drawing.empty:
        return ""
    legend = list(_legend(drawing.data, width - RIGHT))
    maps = [trace for trace in drawing.data if trace["type"] == "heatmap"]
    top = BAR if any(trace.get("showscale", True) for trace in maps) else TOP
    rows = 1 + max((row for _, row, _ in legend), default=-1)
    bottom = drawing.height - 48 - ROW * rows
    given = drawing.layout
    x = axis_of(given["xaxis"], (t["x"] for t in drawing.data), LEFT, width - RIGHT)
    y = axis_of(_rows(given["yaxis"], maps), (t["y"] for t in drawing.data), bottom, top)
    parts = [
        *_frame(x, y, grid=given["xaxis"].get("showgrid", True)),
        f"<clipPath id='{id}-clip'><rect x='{LEFT}' y='{top}' width='{width - LEFT - RIGHT}' "
        f"height='{bottom - top}'/></clipPath><g clip-path='url(#{id}-clip)'>",
        *(_shape(shape, x, y) for shape in given.get("shapes", ())),
        *(part for trace in drawing.data for part in _trace(trace, drawing.data, x, y)),
        "</g>",
        *(part for trace in drawing.data for part in _marks(trace, x, y)),
        *(part for trace in maps for part in _bar(trace, 0.75 * (width - LEFT - RIGHT))),
        *(_label(one, x, y) for one in given.get("annotations", ())),
        *(part for item in legend for part in _key(*item, bottom + 50)),
    ]
    said = escape(f"{drawing.heading} {drawing.caption}", quote=True)
    return (
        f"<svg class='still' style='max-width:{width * 1.1:.0f}px' role='img' "
        f"viewBox='0 0 {width} {drawing.height}' "
        f"aria-label='{said}'>{''.join(parts)}</svg>"
    )


def _rows(axis: dict[str, Any], maps: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the vertical axis of a map with half a cell around it."""
    if "range" in axis or not maps:
        return axis
    return axis | {"range": [float(maps[0]["y"][0]) - 0.5, float(maps[0]["y"][-1]) + 0.5]}


def _frame(x: Axis, y: Axis, grid: bool) -> Iterator[str]:
    """Yield grid, axes, ticks and titles."""
    ink = "fill='var(--muted)' font-size='12'"
    for at, text in x.ticks():
        if grid:
            yield _line(at, y.start, at, y.end, "stroke='var(--grid)'")
        yield f"<text x='{at:.1f}' y='{y.start + 18:.1f}' text-anchor='middle' {ink}>{text}</text>"
    for at, text in y.ticks():
        if grid:
            yield _line(x.start, at, x.end, at, "stroke='var(--grid)'")
        yield f"<text x='{x.start - 7}' y='{at + 4:.1f}' text-anchor='end' {ink}>{text}</text>"
    yield _line(x.start, y.start, x.end, y.start, "stroke='var(--line)'")
    yield _line(x.start, y.start, x.start, y.end, "stroke='var(--line)'")
    middle = (y.start + y.end) / 2
    yield f"<text x='{x.share(0.5):.0f}' y='{y.start + 38:.0f}' text-anchor='middle' {ink}>"
    yield f"{_rich(x.title)}</text><text transform='translate(14 {middle:.0f}) rotate(-90)' "
    yield f"text-anchor='middle' {ink}>{_rich(y.title)}</text>"


def _line(x0: float, y0: float, x1: float, y1: float, style: str) -> str:
    return f"<path d='M{x0:.1f} {y0:.1f}L{x1:.1f} {y1:.1f}' {style}/>"


def _pen(line: dict[str, Any]) -> str:
    """Return how a line is drawn."""
    dash = DASHES.get(line.get("dash", ""), "")
    dashed = f" stroke-dasharray='{dash}'" if dash else ""
    return f"fill='none' stroke='{line.get('color')}' stroke-width='{line.get('width', 2)}'{dashed}"


def _shape(shape: dict[str, Any], x: Axis, y: Axis) -> str:
    """Return a line across the plot."""
    (x0, y0), (x1, y1) = (
        (_place(shape, f"x{end}", x), _place(shape, f"y{end}", y)) for end in (0, 1)
    )
    return _line(x0, y0, x1, y1, _pen(shape["line"]))


def _place(given: dict[str, Any], name: str, axis: Axis) -> float:
    """Return a point that is named by a number of the axis, or by a share of it."""
    inside = "domain" in given.get(f"{name[0]}ref", "")
    return axis.share(given[name]) if inside else float(axis.at(given[name])[0])


def _trace(trace: dict[str, Any], traces: list[dict[str, Any]], x: Axis, y: Axis) -> Iterator[str]:
    """Yield what a trace draws inside the axes."""
    if trace["type"] == "heatmap":
        yield _map(trace, x, y)
        return
    if "lines" not in trace["mode"]:
        return
    if trace.get("fill") == "tonexty":
        above = traces[next(i for i, one in enumerate(traces) if one is trace) - 1]
        around = [*_points(above, x, y), *reversed(_points(trace, x, y))]
        yield f"<path d='{_path(around)}Z' fill='{trace['fillcolor']}'/>"
    if trace["line"].get("width", 2):
        yield f"<path d='{_path(_points(trace, x, y))}' {_pen(trace['line'])}/>"


def _points(trace: dict[str, Any], x: Axis, y: Axis) -> list[tuple[float, float]]:
    return list(zip(x.at(trace["x"]).tolist(), y.at(trace["y"]).tolist(), strict=True))


def _path(points: list[tuple[float, float]]) -> str:
    """Return a path that is interrupted where a point is not there."""
    text, pen = "", "M"
    for a, b in points:
        there = a == a and b == b
        text += f"{pen}{a:.1f} {b:.1f}" if there else ""
        pen = "L" if there else "M"
    return text


def _map(trace: dict[str, Any], x: Axis, y: Axis) -> str:
    """Return a map as a picture stretched over its cells."""
    every = -(-max(len(trace["x"]), len(trace["y"])) // CELLS)
    z = np.asarray(trace["z"])[::every, ::every]
    colours, index = _coloured(trace, z)
    half = every / 2 if every > 1 else 0.5
    left, right = x.at([trace["x"][0] - 0.5, trace["x"][::every][-1] + 2 * half - 0.5])
    low, high = y.at([trace["y"][0] - 0.5, trace["y"][::every][-1] + 2 * half - 0.5])
    return (
        f"<image x='{left:.1f}' y='{high:.1f}' width='{right - left:.1f}' "
        f"height='{low - high:.1f}' preserveAspectRatio='none' style='image-rendering:pixelated' "
        f"opacity='{trace.get('opacity', 1)}' href='{png_uri(index[::-1], colours)}'/>"
    )


def _coloured(trace: dict[str, Any], z: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Return the colours of a map, and which of them each cell has; −1: none."""
    if trace["colorscale"] != palette.MAP_SCALE:
        return [trace["colorscale"][0][1]], np.where(np.isfinite(z), 0, -1)
    share = (z - trace["zmin"]) / (trace["zmax"] - trace["zmin"])
    level = np.clip(np.nan_to_num(share) * LEVELS, 0, LEVELS - 1).astype(int)
    return mixed(SCALE, LEVELS), np.where(np.isfinite(z), level, -1)


def _marks(trace: dict[str, Any], x: Axis, y: Axis) -> Iterator[str]:
    """Yield marks; they may lie on the edge."""
    if "markers" in trace.get("mode", ""):
        colour = trace.get("marker", {}).get("color") or trace["line"]["color"]
        for a, b in _points(trace, x, y):
            if a == a and b == b:
                yield _mark(a, b, trace.get("marker", {}).get("symbol", ""), colour)


def _mark(x: float, y: float, symbol: str, colour: str) -> str:
    """Return a mark; its form tells it apart as its colour does."""
    if symbol not in SIGNS:
        return f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3.5' fill='{colour}'/>"
    return (
        f"<text x='{x:.1f}' y='{y + 4:.1f}' text-anchor='middle' font-size='11' fill='{colour}'>"
        f"{SIGNS[symbol]}</text>"
    )


def _bar(trace: dict[str, Any], wide: float) -> Iterator[str]:
    """Yield the scale of a map's colours."""
    if not trace.get("showscale", True):
        return
    picture = png_uri(np.arange(LEVELS)[None], mixed(SCALE, LEVELS))
    yield f"<image x='{LEFT}' y='22' width='{wide}' height='10' preserveAspectRatio='none' "
    yield f"href='{picture}'/>"
    bar = trace["colorbar"]
    for value, text in zip(bar["tickvals"], bar["ticktext"], strict=True):
        at = LEFT + wide * (value - trace["zmin"]) / (trace["zmax"] - trace["zmin"])
        yield f"<text x='{at:.1f}' y='46' text-anchor='middle' font-size='12' "
        yield f"fill='var(--muted)'>{text}</text>"


def _label(one: dict[str, Any], x: Axis, y: Axis) -> str:
    """Return a label; the one that names a map's scale stands above it."""
    shift = float(one.get("yshift", 0))
    across = _place(one, "x", x)
    down = 14 if shift else _place(one, "y", y) + (14 if one.get("yanchor") == "top" else -4)
    anchor = {"right": "end", "left": "start"}[one.get("xanchor", "left")]
    return (
        f"<text x='{across + one.get('xshift', 0):.1f}' y='{down:.1f}' text-anchor='{anchor}' "
        f"font-size='12' fill='var(--ink)'>{_rich(one['text'])}</text>"
    )


def _legend(traces: list[dict[str, Any]], end: float) -> Iterator[Entry]:
    """Yield what has a name, with its row and its place in it."""
    row, at = 0, float(LEFT)
    for trace in traces:
        if trace["type"] == "heatmap" or not trace.get("showlegend", True) or "name" not in trace:
            continue
        wide = 40 + LETTER * len(re.sub(r"<.*?>", "", trace["name"]))
        if at > LEFT and at + wide > end:
            row, at = row + 1, float(LEFT)
        yield trace, row, at
        at += wide


def _key(trace: dict[str, Any], row: int, at: float, top: float) -> Iterator[str]:
    """Yield an entry of the legend."""
    y = top + ROW * row + 8
    if trace.get("fill"):
        yield f"<rect x='{at:.0f}' y='{y - 5:.0f}' width='20' height='10' "
        yield f"fill='{trace['fillcolor']}'/>"
    elif "lines" in trace["mode"]:
        yield _line(at, y, at + 22, y, _pen(trace["line"]))
    else:
        yield _mark(at + 11, y, trace["marker"].get("symbol", ""), trace["marker"]["color"])
    yield f"<text x='{at + 28:.0f}' y='{y + 4:.0f}' font-size='12' fill='var(--ink)'>"
    yield f"{_rich(trace['name'])}</text>"


def _rich(text: str) -> str:
    """Return text for SVG, indices set low and powers high; no other tag of it counts as one."""
    safe = re.sub(r"&lt;(/?su[bp])&gt;", r"<\1>", symbols(escape(text)))
    for tag, there, back in (("sub", 0.35, -0.26), ("sup", -0.45, 0.34)):
        safe = safe.replace(f"<{tag}>", f"<tspan dy='{there}em' font-size='.75em'>")
        safe = safe.replace(f"</{tag}>", f"</tspan><tspan dy='{back}em'>\u200b</tspan>")
    return safe
