"""The page of a training that is going on: what is on it, and that it fits a screen."""

from __future__ import annotations

import math
import re

import pytest

from throughtime.report.lines import Axis, Curve, chart
from throughtime.report.live import live_page
from throughtime.watch import Found, Record
from throughtime.watch.training_run import TrainingRun

from .browser import open_pages


def a_run(layers: int = 9) -> TrainingRun:
    run = TrainingRun()
    names = [f"model.encoder.layer<{n}>.l0_reverse" for n in range(layers)]
    for step in range(0, 4000, 100):
        values = {}
        for n, name in enumerate(names):
            values |= {
                f"throughtime/{name}/horizon": 10.0 * n + step / 100,
                f"throughtime/{name}/growth": math.nan if step < 300 else 0.99,
                f"throughtime/{name}/norm": 10.0 ** (-n),
            }
        found = (Found("explodes", "error", names[0], "a < b"),)
        profile = {name: [0.5**lag for lag in range(200)] for name in names}
        run.take(Record(step, 1e9 + step, values, found if step > 2000 else (), profile))
    return run


def test_the_page_says_what_is_found_and_is_small():
    page = live_page(a_run(), "run<1>.jsonl", every=2)
    assert "a &lt; b" in page and "run&lt;1&gt;.jsonl" in page and "layer<0>" not in page
    assert "Since step 2,100" in page and "reload(); }, 2000)" in page
    assert len(page) < 600_000 and "src=" not in page and "http" not in page


@pytest.mark.browser
def test_it_fits_a_screen_of_any_width(tmp_path):
    pages = [(live_page(a_run(n), "run.jsonl"), width) for n in (1, 9) for width in (390, 1440)]
    found, console = open_pages(tmp_path, *pages)
    assert console == []
    for one, (_, width) in zip(found, pages, strict=True):
        assert one["scroll"] <= width and "Over training" in one["text"]


def test_a_curve_has_gaps_and_single_points():
    curve = Curve("a", "red", "", [1, 2, 3, 4], [1.0, math.nan, 2.0, 3.0])
    html = chart("t", [curve], "step", Axis())
    assert [html.count(f"{mark}{place}") for mark, place in (("M0 ", ""), ("L1000 ", ""))] == [1, 1]
    assert len(re.findall(r"M[\d.]+ [\d.]+h", html)) == 2
    assert chart("t", [curve._replace(y=[math.nan] * 4)], "step", Axis()) == ""
    log = chart("t", [curve._replace(y=[0.0, 1e-3, 1.0, -1.0])], "step", Axis(logarithmic=True))
    assert len(re.findall(r"M[\d.]+ [\d.]+h", log)) == 1 and "10<sup>−3</sup>" in log
