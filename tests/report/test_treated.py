"""The section on what was tried: the answer first, the lines to paste, before and after."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import Tensor, nn

import throughtime as tt
from throughtime.errors import InputTypeError
from throughtime.remedies import REMEDIES
from throughtime.remedies.ranking import interval
from throughtime.report import report
from throughtime.report.figures import tried
from throughtime.report.number_text import percent
from throughtime.report.page import plot
from throughtime.report.treated import section

from .browser import open_pages


def treated(kind=nn.LSTM, T: int = 60, **named) -> tt.remedies.Treatment:
    torch.manual_seed(0)
    model, x = nn.Sequential(), torch.randn(T, 4, 3)
    model.rnn = kind(3, 16)

    def losses(model: nn.Module) -> Tensor:
        return model.rnn(x)[0][-1].pow(2).mean()

    return tt.treat(model, losses, **named)


@pytest.fixture(scope="module")
def found() -> tt.remedies.Treatment:
    """Give a treatment of which one remedy is best, one helps not, and one is not made for it."""
    return treated(only=["chrono", "orthogonal", "gated-cell"], lag=50)


def page(found: tt.remedies.Treatment) -> str:
    return report.report_html(found.flow, treatment=found)


def told(html: str) -> str:
    """Return the section's words, without markup."""
    body = html[html.index('<section id="treatment">') :]
    body = re.sub(r"<script.*?</script>", "", body[: body.index("</section>")], flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body)).replace("&gt;", ">")


def test_the_answer_the_question_and_the_lines_stand_first(found):
    said = told(page(found))
    order = [
        "What helps: chrono",
        f"with it, {percent(found['chrono'].after.best)} does",
        "Asked: what reaches 50 steps back",
        "The lines to paste",
        "chrono_(model.rnn, longest=50)",
        "does it help?",
    ]
    places = [said.index(words) for words in order]
    assert places == sorted(places)
    assert "2 remedies were tried" in said and "Not made for this model: gated-cell." in said
    assert REMEDIES["chrono"].source in said


def test_each_row_has_before_and_after(found):
    rows = {row["name"]: row for row in section(found, plot)["rows"]}
    assert list(rows) == ["as it is", "chrono", "orthogonal"]
    assert [row["answer"] for row in rows.values()] == ["", "helps", "not enough"]
    assert [row["best"] for row in rows.values()] == [False, True, False]
    for name, row in rows.items():
        of = found[name]
        typical, best, covered, cost = row["cells"]
        for cell, field in ((typical, "at_lag"), (best, "best"), (covered, "coverage")):
            assert cell.after == percent(getattr(of.after, field))
            wanted = percent(getattr(of.before, field)) if name in REMEDIES else ""
            assert cell.before == wanted
        assert cost.after.endswith(" ms")


def test_none_helps_is_said_plainly():
    found = treated(only=["orthogonal", "forget-bias"], lag=50)
    said = told(page(found))
    assert "None of the remedies helps" in said and "The lines to paste" not in said
    assert "None takes a cause away, or brings 1 % of the gradient 50 steps back" in said


def test_none_is_needed_is_said_too():
    said = told(page(treated(T=3, only="orthogonal")))
    assert "No remedy is needed" in said and "Nothing is wrong" in said


def test_scores_and_their_intervals():
    found = treated(
        only=["chrono", "orthogonal"],
        train=lambda model, updates: float(model.rnn.bias_ih_l0[16:32].mean() > 0.5),
        seeds=3,
        updates=20,
    )
    said = told(page(found))
    assert "What helps: chrono" in said and "The score changes by +1 (1 to 1)" in said
    assert "gain (95 %)" in said and "and trained" in said
    found["chrono"].gain = interval([0.5])
    assert "+0.5 (one seed: no interval)" in told(page(found))
    found.best = None
    assert "With none of them does it learn better" in told(page(found))


def test_inf_an_error_and_an_interruption_are_said(found, monkeypatch):
    def broken(*_):
        raise RuntimeError("no <such> thing")

    monkeypatch.setitem(vars(REMEDIES["orthogonal"]), "change", broken)
    torch.manual_seed(0)
    model, x = nn.LSTM(3, 8), torch.randn(20, 4, 3)
    x[3, 1, 2] = math.nan
    bad = tt.treat(model, lambda m: m(x)[0][-1].pow(2).mean(), only=["chrono", "orthogonal"])
    bad.interrupted = True
    html = page(bad)
    said = told(html)
    assert "inf/NaN → inf/NaN" in said and "where that is so a line ends" in said
    assert "orthogonal could not be tried: RuntimeError: no &lt;such> thing" in said
    assert "The trial was interrupted" in said


def test_the_figure_has_each_remedy_and_the_lag_that_was_asked(found):
    drawing = tried.draw(found)
    names = [line["name"] for line in drawing.data]
    assert names == ["no help", "as it is", "chrono (best)", "1 % of the start"]
    assert drawing.layout["shapes"][0]["x0"] == 50 and not drawing.empty
    low, high = drawing.layout["yaxis"]["range"]
    seen = [math.log10(v) for line in drawing.data for v in line["y"] if v]
    assert low < min(seen) and max(seen) < high
    first, best = found.rows[0].after, found["chrono"].after
    assert f"As it is, {percent(first.at_lag)} of the gradient" in drawing.caption
    assert drawing.caption.endswith(f"with chrono, {percent(best.at_lag)}.")


def test_the_findings_are_held_against_the_lag_that_was_asked(found):
    html = page(found)
    assert "50 steps back, the lag that the task needs" in html


def test_write_report_takes_a_treatment_and_nothing_else_for_it(found, tmp_path):
    path = tt.write_report(found.flow, tmp_path / "page.html", treatment=found)
    assert 'id="treatment"' in path.read_text()
    assert 'id="treatment"' not in report.report_html(found.flow)
    with pytest.raises(InputTypeError, match=r"what tt\.treat returned; got dict"):
        tt.write_report(found.flow, tmp_path / "no.html", treatment={})
    assert not (tmp_path / "no.html").exists()


def test_a_browser_shows_it_at_both_widths(found, tmp_path):
    html = report.report_html(found.flow, treatment=found, kinds=())
    pages, console = open_pages(tmp_path, (html, 1440), (html, 390))
    assert not console
    for seen in pages:
        assert int(seen["drawn"]) == seen["plots"] == 2 and seen["scroll"] <= seen["width"]
        assert "What helps: chrono" in seen["text"]
