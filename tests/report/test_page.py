"""The report: one file, whole or not at all, that opens without an error and needs no network."""

from __future__ import annotations

import os
import re

import pytest
import torch
from plotly.offline import get_plotlyjs
from torch import nn

import throughtime as tt
from throughtime.errors import FileError, InputTypeError, InputValueError
from throughtime.report import notebook, page, report
from throughtime.report.number_text import symbols
from throughtime.report.page import render

from .browser import open_pages
from .conftest import REGIMES, flow_of


@pytest.fixture(scope="module")
def html(flows):
    """Give the report of a text read by two layers in both directions, as it was written."""
    words = ["<b>Jane</b>", "&", "</script>", "walked", "into", "the", "room", "."]
    words += ["John", "too", "___", "."]
    return report.report_html(flows("both ways"), words=words, title="A <title>")


@pytest.mark.parametrize("name", REGIMES)
def test_every_regime_has_a_report(flows, tmp_path, name):
    flow = flows(name)
    path = tt.write_report(flow, tmp_path / "flow.html")
    text = path.read_text(encoding="utf-8")
    verdicts = {d.verdict.name for d in tt.diagnose(flow).values()}
    assert path.is_file() and all(verdict in text for verdict in verdicts)
    assert all(f"<h2>{layer}</h2>" in text for layer in flow)
    assert os.listdir(tmp_path) == ["flow.html"]


def test_the_evidence_stands_with_value_threshold_place_and_equation(flows):
    flow = flows("vanishing")
    text = report.report_html(flow)
    for row in tt.diagnose(flow)["l0"].evidence:
        number = re.search(r"\d+", row.equation)[0]
        assert symbols(row.quantity) in text and row.where in text and f'href="#eq{number}"' in text
    assert 'id="eq10"' in text and "What this cannot tell" in text
    assert tt.diagnose(flow)["l0"].advice.split(".")[0] in text


def test_a_diagnosis_of_ones_own_thresholds_is_the_one_shown(flows):
    own = tt.diagnose(flows("exploding"), growth=1e30)
    assert own["l0"].verdict is not tt.Verdict.EXPLODING
    text = report.report_html(flows("exploding"), diagnosis=own)
    assert "EXPLODING" not in text and own["l0"].verdict.name in text


def test_the_first_bad_step_is_told(flows):
    first = flows("overflow")["l0"].first_nonfinite
    text = report.report_html(flows("overflow"))
    assert f"First {first.kind}: in the forward pass, at step {first.step}" in text


def test_the_file_needs_no_network_and_holds_plotly_once(html):
    assert html.count(page._packed(get_plotlyjs())) == 1
    own = html.replace(page._packed(get_plotlyjs()), "")
    assert not re.search(r"(https?:)?//[a-z]", own), "the page names an address"
    assert not re.search(r"<(link|script|img)[^>]+(src|href)=\"(?!data:)", own)


def test_the_users_words_cannot_break_out_of_the_page(html):
    own = html.replace(page._packed(get_plotlyjs()), "")
    assert "<b>Jane" not in own and "&lt;b&gt;Jane" in own and "A &lt;title&gt;" in own
    assert own.count("</script>") == own.count("<script")


def test_a_report_of_200_steps_stays_under_3_megabytes(tmp_path):
    flow = flow_of(nn.LSTM(3, 6, num_layers=2), T=200)
    assert tt.write_report(flow, tmp_path / "flow.html").stat().st_size < 3e6


@pytest.mark.browser
def test_the_pages_open_in_a_browser_without_an_error_or_sideways_scrolling(html, flows, tmp_path):
    cell = f"<html data-drawn='0'>{notebook.flow_html(flows('one step'))}</html>"
    found, console = open_pages(tmp_path, (html, 1440), (html, 390), (cell, 900))
    assert not console
    for page_found, width in zip(found, (1440, 390), strict=False):
        assert page_found["plots"] == 2 * 5 + 1
        assert page_found["drawn"] == str(page_found["plots"])
        assert page_found["svgs"] >= page_found["plots"]
        assert page_found["scroll"] <= page_found["width"] == width
        assert "</script>" in page_found["text"]


@pytest.mark.browser
def test_the_browser_test_sees_an_error(tmp_path):
    broken = render("base.html.j2", title="x").replace("<body>", "<body><script>nope()</script>")
    _, console = open_pages(tmp_path, (broken.replace("<html", "<html data-drawn='0'"), 400))
    assert any("nope" in line for line in console)


@pytest.mark.parametrize("where", ["missing/flow.html", "", "file/flow.html"])
def test_a_path_that_cannot_be_written_is_refused_before_any_work(tmp_path, monkeypatch, where):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setattr(report, "report_html", lambda *a, **k: pytest.fail("work was done"))
    with pytest.raises(FileError, match=r"folder|file"):
        tt.write_report({}, tmp_path / where)
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("name", "error"),
    [("a" * 300 + ".html", FileError), ("a\0b.html", FileError), (None, InputTypeError)],
)
def test_a_name_that_no_file_can_have_is_refused_in_words(tmp_path, monkeypatch, name, error):
    monkeypatch.setattr(report, "report_html", lambda *a, **k: pytest.fail("work was done"))
    with pytest.raises(error, match=r"cannot write|must be a path"):
        tt.write_report({}, name and str(tmp_path / name))
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(flows, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(FileError, match="permission"):
        tt.write_report(flows("one step"), tmp_path / "flow.html")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(flows, tmp_path, monkeypatch):
    path = tmp_path / "flow.html"
    path.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("throughtime.files.os.replace", full)
    with pytest.raises(FileError, match="No space left"):
        tt.write_report(flows("one step"), path)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["flow.html"]


def test_bad_words_leave_no_file(flows, tmp_path):
    with pytest.raises(InputValueError, match="one entry a step"):
        tt.write_report(flows("one step"), tmp_path / "flow.html", words=["a", "b", "c"])
    assert not os.listdir(tmp_path)


def test_a_flow_without_layers_is_refused(tmp_path):
    with pytest.raises(InputValueError, match="no layer"):
        tt.write_report({}, tmp_path / "flow.html")


def test_a_notebook_shows_verdicts_and_figures_in_a_frame(flows):
    shown = notebook.flow_html(flows("vanishing"))
    assert tt.Flow.html is notebook.flow_html
    assert flows("vanishing")._repr_html_().startswith("<iframe")
    assert shown.count("<iframe") == 1 and "VANISHING" in shown and "plot-0-map" in shown
    assert 'id="limits"' not in shown


def test_float64_norms_below_float32_are_drawn():
    flow = flow_of(tt.RNN(3, 4, nonlinearity="sigmoid"), T=160, dtype=torch.float64)
    text = report.report_html(flow)
    assert "exactly 0" not in text.split('id="limits"')[0]
