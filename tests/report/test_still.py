"""Figures without a plotting library: where things lie, what their pixels are, what they weigh."""

from __future__ import annotations

import base64
import re
import struct
import xml.etree.ElementTree as ET
import zlib
from dataclasses import replace

import numpy as np
import pytest
from torch import nn

from throughtime.report import notebook
from throughtime.report.axes import Axis, axis_of
from throughtime.report.bitmap import png_uri
from throughtime.report.figures import draw
from throughtime.report.still import CELLS, LEVELS, still_svg

from .conftest import REGIMES, flow_of

SVG = "{http://www.w3.org/2000/svg}"


def parsed(svg: str) -> ET.Element:
    return ET.fromstring(svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


def pixels(uri: str) -> tuple[np.ndarray, list[bytes]]:
    """Give what a PNG holds: the index of each pixel, and the colours; every checksum is looked
    at."""
    data = base64.b64decode(uri.partition(",")[2])
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    found, at = {}, 8
    while at < len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        name, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        assert struct.unpack(">I", data[at + 8 + size : at + 12 + size])[0] == zlib.crc32(
            name + body
        )
        found[name], at = body, at + 12 + size
    columns, rows = struct.unpack(">II", found[b"IHDR"][:8])
    lines = np.frombuffer(zlib.decompress(found[b"IDAT"]), np.uint8).reshape(rows, columns + 1)
    assert not lines[:, 0].any() and found[b"tRNS"] == b"\0"
    palette = found[b"PLTE"]
    return lines[:, 1:], [palette[i : i + 3] for i in range(0, len(palette), 3)]


@pytest.mark.parametrize("name", REGIMES)
def test_every_regime_has_still_figures_that_are_whole(flows, name: str):
    flow = flows(name)
    drawings = [draw(flow, kind, layer) for layer in flow for kind in ("lag", "map")]
    for drawing in [*drawings, draw(flow, "overview"), draw(flow, "steps")]:
        svg = still_svg(drawing, "one")
        assert bool(svg) != drawing.empty and "nan" not in re.sub(r"aria-label='.*?'", "", svg)
        if svg:
            root = parsed(svg)
            assert root.get("viewBox") == f"0 0 720 {drawing.height}"
            named = [t for t in drawing.data if t["type"] != "heatmap" and "name" in t]
            said = "".join(root.itertext()).replace("\u200b", "")
            for trace in named:
                shown = trace.get("showlegend", True)
                assert not shown or re.sub("<.*?>", "", trace["name"]) in said


def test_a_curve_lies_where_its_axes_say(flows):
    drawing = draw(flows("vanishing"), "lag", "l0", bounds=False)
    trace = next(t for t in drawing.data if t.get("name") == "measured, typical")
    root = parsed(still_svg(drawing, "one"))
    paths = [
        p.get("d") for p in root.iter(f"{SVG}path") if p.get("stroke") == trace["line"]["color"]
    ]
    points = [tuple(map(float, p.split())) for p in re.findall(r"[\d.]+ [\d.]+", paths[0])]
    x0, x1 = drawing.layout["xaxis"]["range"]
    y0, y1 = drawing.layout["yaxis"]["range"]
    assert len(points) == len(trace["y"])
    clip = next(root.iter(f"{SVG}rect"))
    left, top, wide, high = (float(clip.get(k)) for k in ("x", "y", "width", "height"))
    for (x, y), step, value in zip(points, trace["x"], trace["y"], strict=True):
        assert abs(x - (left + wide * (step - x0) / (x1 - x0))) < 0.06
        assert abs(y - (top + high * (y1 - np.log10(value)) / (y1 - y0))) < 0.06


def test_a_line_is_interrupted_where_a_point_is_not_there(flows):
    drawing = draw(flows("vanishing"), "lag", "l0", bounds=False)
    gap = [
        dict(t, y=np.where(np.arange(len(t["y"])) == 5, np.nan, t["y"])) for t in drawing.data[2:3]
    ]
    path = re.search(
        r" d='(M[^']*)' fill='none' stroke='#2b7bba'", still_svg(replace(drawing, data=gap), "a")
    )
    assert path is not None and path[1].count("M") == 2


def test_the_pixels_of_a_map_are_its_numbers(flows):
    drawing = draw(flows("underflow"), "map", "l0")
    images = parsed(still_svg(drawing, "one")).iter(f"{SVG}image")
    heats = [t for t in drawing.data if t["type"] == "heatmap"]
    for image, heat in zip(list(images)[: len(heats)], heats, strict=True):
        index, colours = pixels(image.get("href"))
        z = np.asarray(heat["z"])[::-1]  # the first row of a picture is on top
        assert index.shape == z.shape and ((index == 0) == ~np.isfinite(z)).all()
        if len(colours) == LEVELS + 1:
            there = np.isfinite(z)
            shown = (index[there] - 0.5) / LEVELS * (heat["zmax"] - heat["zmin"]) + heat["zmin"]
            assert abs(shown - z[there]).max() <= (heat["zmax"] - heat["zmin"]) / LEVELS
            assert colours[1] == bytes.fromhex("440154") and colours[-1] == bytes.fromhex("fde725")


def test_a_png_is_read_back():
    index = np.array([[0, -1, 1], [1, 1, -1]])
    found, colours = pixels(png_uri(index, ["#ff0000", "#00ff00"]))
    assert (found == index + 1).all() and colours[1:] == [b"\xff\0\0", b"\0\xff\0"]


@pytest.mark.parametrize(
    ("axis", "ticks"),
    [
        (
            Axis(0, 40, 0, 400, False, ""),
            [(0, "0"), (100, "10"), (200, "20"), (300, "30"), (400, "40")],
        ),
        (Axis(0, 3, 0, 3, False, ""), [(0, "0"), (1, "1"), (2, "2"), (3, "3")]),
        (Axis(-2, 0, 20, 0, True, ""), [(20, "10⁻²"), (10, "10⁻¹"), (0, "10⁰")]),
    ],
)
def test_ticks_stand_at_round_numbers(axis: Axis, ticks: list[tuple[float, str]]):
    assert axis.ticks() == ticks


def test_an_axis_without_a_range_holds_what_is_drawn():
    axis = axis_of({"rangemode": "tozero"}, [np.array([2.0, np.nan, 7.0])], 0, 70)
    assert (axis.low, axis.high) == (0, 7) and axis.at([7, None])[0] == 70
    assert np.isnan(axis.at([7, None])[1])
    assert axis_of({"type": "log"}, [np.array([0.0, 0.1, 10])], 0, 1).low == -1


def test_a_layers_name_cannot_break_out_of_the_drawing(flows):
    layer = flows("gated")["l0"]
    named = {"</text><script>x</script>'\"&": layer, "other": layer}
    svg = still_svg(draw(named, "overview"), "one")
    assert "<script" not in svg and "".join(parsed(svg).itertext()).count("</text><script>") >= 1


def test_a_notebook_is_small_and_needs_no_script():
    small = notebook.flow_html(flow_of(nn.LSTM(3, 6), T=60))
    large = notebook.flow_html(flow_of(nn.LSTM(3, 6, num_layers=2), T=CELLS + 30))
    assert len(small.encode()) < 60_000 and len(large.encode()) < 200_000
    for shown in (small, large):
        assert "<script" not in shown and shown.count("class='still'") >= 3
        assert not re.search(r"(https?:)?//[a-z]", shown)
    many = notebook.flow_html(flow_of(nn.RNN(3, 2, num_layers=6), T=100))
    assert len(many.encode()) < 300_000 and "<image" not in many
