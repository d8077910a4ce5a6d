"""The report's section on a training, from a monitor and from its file."""

from __future__ import annotations

import json
import re

import pytest

import throughtime as tt
from throughtime.errors import FileError, InputTypeError, InputValueError
from throughtime.report.report import report_html
from throughtime.watch import Found, History, Record

from .browser import open_pages


def history(records: int = 5) -> History:
    found = Found("vanishes", "warning", "l0", "In l0 the gradient is short.")
    return History(
        Record(
            100 * n,
            0.0,
            {"throughtime/l0/horizon": 3.0 + n, "throughtime/rnn.l0/horizon": float("nan")},
            (found,) if n == records - 1 else (),
            {"l0": [0.7**k for k in range(20)], "rnn.l0": [float("nan")]},
        )
        for n in range(records)
    )


def data(html: str, id: str) -> dict:
    return json.loads(re.search(rf'id="{id}-data">(.*?)</script>', html, re.DOTALL)[1])


def test_the_section_has_the_horizons_and_a_map_of_each_layer(flows, tmp_path):
    path = tmp_path / "run.jsonl"
    path.write_bytes(b"".join(record.line() for record in history()))
    pages = [report_html(flows("vanishing"), monitor=one) for one in (history(), path, str(path))]
    for html in pages:
        assert "<h2>Over training</h2>" in html
        horizons = data(html, "training-horizon")["data"]
        assert [trace["name"] for trace in horizons] == ["l0", "rnn.l0"]
        assert horizons[0]["x"] == [0, 100, 200, 300, 400] and horizons[0]["y"][-1] == 7
        assert "In l0 the gradient reached 3 steps at first, 7 at last." in html
        assert "In rnn.l0 no number was finite." in html
        assert "At step 400, the last one measured: In l0 the gradient is short." in html
        assert data(html, "training-map-0")["data"][0]["x"] == [0, 100, 200, 300, 400]
        assert 'id="training-map-1-data"' not in html  # nothing finite to draw
    assert "Over training" not in report_html(flows("vanishing"))


def test_a_monitor_itself_is_taken_and_what_is_none_is_refused(flows, tmp_path):
    flow = flows("vanishing")
    monitor = tt.Monitor(tt.GRU(2, 3))
    monitor.history.add(history()[0])
    tt.write_report(flow, tmp_path / "page.html", monitor=monitor)
    assert "Over training" in (tmp_path / "page.html").read_text(encoding="utf-8")
    with pytest.raises(InputTypeError, match=r"monitor must be a tt\.Monitor.*; got int\."):
        tt.write_report(flow, tmp_path / "none.html", monitor=3)
    with pytest.raises(FileError, match="there is no file"):
        tt.write_report(flow, tmp_path / "none.html", monitor=tmp_path / "no.jsonl")
    with pytest.raises(InputValueError, match="has measured nothing yet"):
        tt.write_report(flow, tmp_path / "none.html", monitor=History())
    assert not (tmp_path / "none.html").exists()


@pytest.mark.browser
def test_the_page_opens_with_its_section(flows, tmp_path):
    html = report_html(flows("vanishing"), monitor=history())
    found, console = open_pages(tmp_path, (html, 1440), (html, 390))
    assert not console
    for page, width in zip(found, (1440, 390), strict=True):
        assert page["drawn"] == str(page["plots"]) and page["scroll"] <= page["width"] == width
