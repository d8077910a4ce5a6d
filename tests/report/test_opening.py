"""How a page begins: the cause, how it is known, what to change, and no contradiction."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import nn

import throughtime as tt
from throughtime.diagnosis.paste import line
from throughtime.remedies import REMEDIES
from throughtime.report import draw, report
from throughtime.report.palette import BOUND, COLORWAY, MEASURED, SEVERITIES, TIGHT

from .conftest import flow_of, linear


class Sentiment(nn.Module):
    """Two layers, read once at the end."""

    def __init__(self):
        super().__init__()
        self.rnn, self.out = nn.LSTM(4, 8, num_layers=2), nn.Linear(8, 2)

    def forward(self, x):
        return self.out(self.rnn(x)[0][-1])


@pytest.fixture(scope="module")
def sentiment():
    """Give the flow of one scalar loss through two layers."""
    torch.manual_seed(0)
    model, x = Sentiment(), torch.randn(60, 4, 4)
    with tt.trace(model) as trace:
        loss = nn.functional.cross_entropy(model(x), torch.tensor([0, 1, 0, 1]))
    return trace.flow(loss)


def scaled(scale: float, shift: float = 0.0) -> tt.Flow:
    torch.manual_seed(0)
    model = nn.LSTM(1, 16)
    with tt.trace(model) as trace:
        loss = model(shift + scale * torch.randn(60, 4, 1))[0][-1].pow(2).mean()
    return trace.flow(loss)


def told(html: str) -> str:
    """Return what a reader sees of a page before the details, without markup."""
    body = html[html.index("<body>") : html.index('id="details"')]
    body = re.sub(r"<script.*?</script>", "", body, flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body))


def test_the_page_begins_with_the_cause_and_the_line_to_paste(sentiment):
    said = told(report.report_html(sentiment))
    assert "The early steps get almost no gradient" in said and "Warning" in said
    assert "tt.remedies.chrono_(model.rnn, longest=59)" in said
    assert said.count("chrono_(") == 1, "two layers of one module need one line"
    assert said.index("What to change") < said.index("Layer by layer")
    assert "The same holds in rnn.l1" in said


def test_a_symptom_stands_in_the_card_of_its_cause():
    said = told(report.report_html(scaled(500, 30_000)))
    assert said.index("so large that it saturates") < said.index("What follows from it")
    assert said.index("What follows from it") < said.index("The early steps get almost no")
    assert "chrono_" not in said and "x_train.mean" in said


def test_the_line_to_paste_runs(sentiment):
    html = report.report_html(sentiment)
    code = re.search(r"<pre><code>(.+?)</code></pre>", html, re.S)[1]
    model = Sentiment()
    before = model.rnn.bias_ih_l1.clone()
    exec(code, {"tt": tt, "model": model, "torch": torch})
    assert not torch.equal(before, model.rnn.bias_ih_l1)


@pytest.mark.parametrize("fix", [n for n, row in REMEDIES.items() if row.call is not None])
def test_the_line_of_a_fix_is_the_remedys_own_and_runs(fix):
    torch.manual_seed(0)
    kind = nn.RNN if fix in ("gated-cell", "identity-relu") else nn.LSTM
    model = nn.ModuleDict({"rnn": kind(3, 6)})
    with tt.trace(model) as trace:
        loss = model["rnn"](torch.randn(30, 2, 3))[0][-1].pow(2).mean()
    flow = trace.flow(loss)
    finding = tt.Finding("vanishes", "warning", "rnn.l0", "", (), "", fix)
    code = line(finding, flow, ("rnn.l0",))
    own = REMEDIES[fix].line("model.rnn", 29, "tt.remedies.")
    assert code.splitlines()[-1] == own
    assert ("how many steps back" in code) == ("longest=29" in own)
    before = {name: w.clone() for name, w in model.state_dict().items()}
    exec(code, {"tt": tt, "model": model})
    after = model.state_dict()
    assert before.keys() != after.keys() or any(
        not torch.equal(before[n], after[n]) for n in before
    )


def test_numbers_at_the_top_agree_with_the_finding(sentiment):
    found = tt.examine(sentiment)
    for one in found:
        reached = re.search(r"it reaches (\d+) steps", one.what)[1]
        assert f"{reached} of 60 steps" in told(report.report_html(sentiment))


def test_a_sound_model_is_told_what_that_does_not_mean(flows):
    said = told(report.report_html(flows("orthogonal")))
    assert "No fault found" in said and "What to look at next" in said
    assert "does not mean that the model learns" in said


def test_one_scalar_loss_is_not_told_as_many(sentiment):
    html = report.report_html(sentiment)
    assert "60 losses" not in html and "each line is one loss" not in html.lower()
    assert "one loss, whose gradient enters at 60 steps" in html
    assert "one loss, whose gradient enters at 1 step," in html
    assert "or from the layer above" in draw(sentiment, "map", "rnn.l0").caption


def test_nan_in_the_input_comes_with_no_curve_no_horizon_and_no_clipping():
    torch.manual_seed(0)
    model, x = nn.LSTM(3, 8, num_layers=2), torch.randn(30, 4, 3)
    x[17, 2, 1] = math.nan
    with tt.trace(model) as trace:
        losses = model(x)[0].pow(2).mean((1, 2))
    html = report.report_html(trace.flow(losses))
    said = told(html)
    assert "input[17, 2, 1]" in said and "Error" in said and "not measurable" in said
    body = html[html.index("<body>") : html.index('id="plotly-js"')]
    assert "curve-plot" not in body and "clip" not in body.lower()
    assert "input[17, 2, 1]" in repr(trace.flow(losses))


def test_growth_is_told_as_growth():
    html = report.report_html(flow_of(linear(1.3), T=40))
    assert "keeps at least" not in html and re.search(r"grows [\d,]+-fold over \d+ steps", html)
    drawing = draw(flow_of(linear(1.3), T=40), "lag")
    assert not any("horizon" in note["text"] for note in drawing.layout["annotations"])


def test_shares_are_counted_from_the_heavy_end(flows):
    late = flow_of(linear(1.5), T=30, losses=lambda each: each[-1:])
    grown = draw(late, "weights", names=("weight_ih",)).caption
    assert grown.startswith("The first ") and "beginning of the sequence almost alone" in grown
    assert draw(flows("one loss"), "weights").caption.startswith("The last ")


@pytest.mark.parametrize("kind", ["lag", "overview"])
def test_the_threshold_is_named_in_the_legend_not_on_the_curves(flows, kind):
    drawing = draw(flows("vanishing"), kind, None if kind == "overview" else "l0")
    assert any(line.get("name") == "1 % of the start" for line in drawing.data)
    assert not any("%" in note["text"] for note in drawing.layout.get("annotations", []))


def test_one_line_is_a_curve_and_no_strip_of_colours(flows):
    drawing = draw(flows("one loss"), "map")
    assert not any(trace["type"] == "heatmap" for trace in drawing.data)
    norms = flows("one loss")["l0"].norms[0].median(-1).values
    assert drawing.data[0]["y"][-1] == pytest.approx(float(norms[-1]), rel=1e-5)


def test_severities_are_no_colours_of_the_data_and_have_words():
    data = {*COLORWAY, MEASURED, BOUND, TIGHT}
    assert not data & {severity.colour for severity in SEVERITIES.values()}
    assert len({severity.word for severity in SEVERITIES.values()}) == len(SEVERITIES)


def test_before_and_after_stand_on_one_page(tmp_path):
    before, after = scaled(500, 30_000), scaled(1)
    path = tt.write_report({"before": before["l0"], "after": after["l0"]}, tmp_path / "both.html")
    said = told(path.read_text(encoding="utf-8"))
    assert re.search(r"before .*input-scale.* of 60 steps .*after", said)
    assert "in before" in said


def test_findings_of_ones_own_lag_are_those_shown(flows):
    found = tt.examine(flows("one loss"), lag=18)
    assert found and "18 steps back" in report.report_html(flows("one loss"), findings=found)


def test_many_runs_are_told_once():
    torch.manual_seed(0)
    model = nn.GRU(4, 8)
    with tt.trace(model) as trace:
        loss = torch.stack(
            [model(torch.randn(80, 2, 4))[0][-1].pow(2).mean() for _ in range(8)]
        ).sum()
    flow = trace.flow(loss)
    said = told(report.report_html(flow))
    assert "in l0 (8 runs)" in said and said.count("of the gradient that the last") == 1
    assert repr(tt.examine(flow)).count("warning:") == 1
    assert "the worst of 8 runs" in repr(tt.diagnose(flow)).replace("\n", " ")
