"""Every kind of figure in every regime, and its numbers against the flow's own."""

from __future__ import annotations

import re

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from torch import nn

import throughtime as tt
from throughtime.errors import InputTypeError, InputValueError, LayerNotFoundError
from throughtime.report import KINDS, draw
from throughtime.report.arrange import STEPS, norms_by_lag

from .conftest import REGIMES, flow_of, linear


def drawn(flow, kind, **options):
    name = next(iter(flow))
    if kind == "words":
        options.setdefault("words", [f"w{k}" for k in range(flow[name].T)])
    return draw(flow, kind, None if kind == "overview" else name, **options)


def trace_named(drawing, name):
    return next(trace for trace in drawing.data if name in trace.get("name", ""))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", REGIMES)
def test_every_kind_draws_every_regime_and_says_what_it_shows(flows, name, kind):
    drawing = drawn(flows(name), kind)
    figure = drawing.figure()
    assert isinstance(figure, go.Figure)
    assert drawing.caption.strip().endswith(".") and len(drawing.caption) > 40
    assert figure.layout.meta["caption"] == drawing.caption
    assert set(drawing.equations) <= set(range(1, 11)) and drawing.equations
    assert not re.search(r"\b(nan|None)\b", drawing.caption), "a number that is none was written"


def test_the_public_figure_shows_its_words(flows):
    shown = [note.text for note in tt.figure(flows("vanishing"), "lag").layout.annotations]
    assert any("How far back" in text for text in shown)
    assert any("falls below 1 %" in text for text in shown)


def test_the_map_is_log10_of_the_norms():
    flow = flow_of(nn.RNN(3, 4), T=7, B=1, dtype=torch.float64)
    layer, drawing = flow["l0"], drawn(flow, "map")
    heat = next(t for t in drawing.data if t["type"] == "heatmap" and "zmin" in t)
    for t in range(1, 8):
        loss = int((layer.enters[:, 0] == t).nonzero()[0])
        for k in range(8):
            shown = heat["z"][t - 1, k]
            if k > t:
                assert np.isnan(shown)
            else:
                assert shown == pytest.approx(float(layer.norms[loss, k, 0].log10()), rel=1e-6)


def test_the_profile_is_the_flows_own_and_lies_in_its_spread(flows):
    flow = flows("vanishing")
    layer, lags = flow["l0"], norms_by_lag(flow["l0"])
    measured = trace_named(drawn(flow, "lag"), "measured")
    np.testing.assert_allclose(measured["y"], layer.lag_profile().numpy(), rtol=1e-12)
    np.testing.assert_allclose(lags.middle, layer.lag_profile().numpy(), rtol=1e-5)
    assert (lags.low <= lags.middle).all() and (lags.middle <= lags.high).all()


def test_both_bounds_are_the_flows_own(flows):
    layer, drawing = flows("vanishing")["l0"], drawn(flows("vanishing"), "lag")
    for lag in (1, 5, layer.T):
        tight = float(layer.bound(layer.T, layer.T - lag, tight=True)[0])
        loose = float(layer.bound(layer.T, layer.T - lag)[0])
        assert trace_named(drawing, "bound Π")["y"][lag] == pytest.approx(tight, rel=1e-9)
        assert trace_named(drawing, "bound (β")["y"][lag] == pytest.approx(loose, rel=1e-9)


def test_a_gated_cell_has_the_tight_bound_alone(flows):
    names = [trace.get("name", "") for trace in drawn(flows("gated"), "lag").data]
    assert sum("bound" in name for name in names) == 1


def test_the_horizon_is_marked_where_the_flow_has_it(flows):
    flow = flows("vanishing")
    horizon = flow["l0"].horizon(0.1)
    drawing = drawn(flow, "lag", fraction=0.1)
    assert drawing.layout["shapes"][0]["x0"] == horizon
    assert f"after {horizon} step" in drawing.caption


def test_singular_values_are_the_flows_own(flows):
    flow = flows("gated")
    layer, drawing = flow["l0"], drawn(flow, "jacobian", row=1)
    largest, smallest = trace_named(drawing, "largest"), trace_named(drawing, "smallest")
    for i in (0, 7, 19):
        values = layer.singular_values(i + 1)[1]
        assert largest["y"][i] == pytest.approx(float(values[0]))
        assert smallest["y"][i] == pytest.approx(float(values[-1]))


def test_the_orthogonal_layer_only_turns_the_gradient(flows):
    assert "All are 1" in drawn(flows("orthogonal"), "jacobian").caption
    assert "neither grows nor decays" in drawn(flows("orthogonal"), "lyapunov").caption
    assert "still 100 %" in drawn(flows("orthogonal"), "lag").caption


def test_growth_is_said_and_the_bound_is_not_blamed(flows):
    caption = drawn(flows("exploding"), "lag").caption
    assert "grows" in caption and "proves nothing" in caption


def test_exponents_are_the_median_over_rows(flows):
    flow = flows("exploding")
    line = trace_named(drawn(flow, "lyapunov"), "median")
    np.testing.assert_allclose(line["y"], np.median(flow["l0"].lyapunov().numpy(), 0))
    assert line["y"][0] == pytest.approx(np.log(1.5), rel=1e-4)


def test_shares_sum_to_one(flows):
    drawing = drawn(flows("gated"), "weights")
    assert {t["name"] for t in drawing.data} == set(flows("gated")["l0"].weight_names)
    for trace in drawing.data:
        assert trace["y"].sum() == pytest.approx(1, abs=1e-5)


def test_exact_zeros_are_told_apart_from_what_is_not_there(flows):
    flow = flows("underflow")
    drawing = drawn(flow, "map")
    flat = next(t for t in drawing.data if "exactly 0" in t.get("hovertemplate", ""))
    heat = next(t for t in drawing.data if "zmin" in t)
    zero = flat["z"] == 1
    assert zero.any() and np.isnan(heat["z"][zero]).all()
    later = heat["x"][None] > heat["y"][:, None]
    assert not (zero & later).any()
    assert "exactly 0" in drawing.caption and "exactly 0" in drawn(flow, "lag").caption


def test_what_a_reset_cuts_off_is_not_called_zero():
    reset = torch.zeros(12, 1, dtype=torch.bool)
    reset[5] = True
    drawing = drawn(flow_of(tt.GRU(3, 4), T=12, B=1, reset=reset), "map")
    assert not any("exactly 0" in trace.get("name", "") for trace in drawing.data)
    heat = next(t for t in drawing.data if "zmin" in t)
    assert np.isnan(heat["z"][8, :5]).all() and np.isfinite(heat["z"][8, 6:10]).all()


def test_a_window_leaves_gaps_and_says_so():
    torch.manual_seed(0)
    rnn = nn.RNN(3, 4)
    with tt.trace(rnn) as trace:
        losses = rnn(torch.randn(30, 2, 3))[0].pow(2).mean((1, 2))
    flow = trace.flow(losses, window=5)
    drawing = drawn(flow, "map")
    assert "nothing was measured" in drawing.note
    assert not any("not finite" in t.get("name", "") for t in drawing.data)
    assert drawn(flow, "lag").caption


def test_inf_and_what_follows_from_it_are_marked():
    flow = flow_of(linear(1.0), T=12, B=2)
    layer = flow["l0"]
    layer.norms[8:, :4] = float("inf")
    layer.norms[8:, :2] = float("nan")
    drawing = drawn(flow, "map")
    assert any("not finite" in trace.get("name", "") for trace in drawing.data)
    assert "From the loss at step 9 on" in drawing.caption
    flat = next(t for t in drawing.data if "not finite" in t.get("hovertemplate", ""))
    assert (flat["z"][8:, :4] == 1).all() and not (flat["z"][:8] == 1).any()
    assert "not finite" in drawn(flow, "lag").caption


def test_a_long_map_is_thinned_keeps_the_last_step_and_says_so():
    drawing = drawn(flow_of(nn.RNN(3, 2), T=451, B=1), "map")
    heat = next(t for t in drawing.data if "zmin" in t)
    assert max(heat["z"].shape) <= STEPS + 1
    assert heat["x"][-1] == heat["y"][-1] == 451
    assert "too many to draw" in drawing.note


def test_words_are_shaded_by_the_norm_that_reaches_them(flows):
    flow = flows("one loss")
    drawing = drawn(flow, "words")
    strength = drawing.data[0]["z"].ravel()[:20]
    expected = np.clip(1 + np.log10((n := flow["l0"].norms[0, 1:, 0].numpy()) / n.max()) / 6, 0, 1)
    np.testing.assert_allclose(strength, expected, rtol=1e-4)
    assert "w19" in drawing.caption


def test_words_of_a_reverse_layer_keep_the_order_of_the_text(flows):
    flow = flows("two layers")
    words = [f"w{k}" for k in range(12)]
    forward = draw(flow, "words", "l1", words=words).data[0]
    reverse = draw(flow, "words", "l1_reverse", words=words).data[0]
    assert forward["text"][0][0] == reverse["text"][0][0] == "w0"
    assert forward["z"].ravel()[11] > forward["z"].ravel()[0]
    assert reverse["z"].ravel()[0] > reverse["z"].ravel()[11]


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"kind": "pie"}, InputValueError, "lag, map, words"),
        ({"kind": "lag", "layer": "l9"}, LayerNotFoundError, "l0"),
        ({"kind": "lag"}, LayerNotFoundError, "layer="),
        ({"kind": "lag", "layer": "l0", "colour": 1}, InputTypeError, "fraction"),
        ({"kind": "words", "layer": "l0"}, InputValueError, "words="),
        ({"kind": "words", "layer": "l0", "words": ["a"]}, InputValueError, "12 steps"),
        ({"kind": "words", "layer": "l0", "words": "a b c"}, InputValueError, "one str"),
        ({"kind": "words", "layer": "l0", "words": ["a"] * 12, "row": 5}, InputValueError, "row"),
        ({"kind": "words", "layer": "l0", "words": ["a"] * 12, "loss": 99}, InputValueError, "99"),
        ({"kind": "jacobian", "layer": "l0", "row": 2}, InputValueError, "0 to 1"),
        ({"kind": "lyapunov", "layer": "l0", "n": 0}, InputValueError, "at least 1"),
        ({"kind": "weights", "layer": "l0", "names": ("w",)}, InputValueError, "weight_hh"),
    ],
)
def test_bad_input_gets_one_clear_error(flows, options, error, says):
    with pytest.raises(error, match=says):
        tt.figure(flows("two layers"), **options)


@pytest.mark.parametrize("kind", ["lag", "overview"])
def test_what_is_no_flow_is_refused(flows, kind):
    for wrong in (3, flows("vanishing")["l0"]):
        with pytest.raises(InputTypeError, match=r"must be what trace\.flow"):
            tt.figure(wrong, kind)
