"""What findings rest on: thresholds, places, ranking, plain data, cost (eq. 5, 9, 10)."""

from __future__ import annotations

import json
import math
import time

import pytest
import torch
from torch import nn

import throughtime as tt
from throughtime.diagnosis.examining import ranked
from throughtime.diagnosis.finding import Finding
from throughtime.diagnosis.findings import FINDINGS
from throughtime.diagnosis.findings.decay import vanishes
from throughtime.diagnosis.findings.growth import explodes
from throughtime.diagnosis.findings.padding import reads_padding
from throughtime.diagnosis.findings.saturation import input_scale
from throughtime.diagnosis.found import Findings
from throughtime.diagnosis.look import Look
from throughtime.errors import InputTypeError, InputValueError

CODES = [
    "input-nonfinite",
    "loss-nonfinite",
    "state-overflow",
    "gradient-overflow",
    "weight-nonfinite",
    "initial-state-nonfinite",
    "loss-gradient-nonfinite",
    "derivative-nonfinite",
    "input-scale",
    "saturated",
    "dead-units",
    "reads-padding",
    "reverse-reads-one-step",
    "rows-without-gradient",
    "no-gradient",
    "state-cut",
    "state-on-old-graph",
    "parameter-unreached",
    "vanishes",
    "explodes",
    "underflow",
]


def flow_of(rnn, x, loss, **options) -> tt.Flow:
    """Give the flow of a loss over what a layer puts out."""
    with tt.trace(rnn) as trace:
        found = loss(rnn(x)[0])
    return trace.flow(found, **options)


def last(h):
    """Give a loss at the last step."""
    return h[-1].pow(2).mean()


def each(h):
    """Give a loss at every step."""
    return (h - 0.3).pow(2).mean((1, 2))


def codes(found) -> list[str]:
    """Give the codes alone."""
    return [f.code for f in found]


def test_every_code_of_the_design_has_its_row():
    assert set(CODES) <= set(FINDINGS)
    for kind in FINDINGS.values():
        assert kind.what
        assert all(cause.removesuffix("*") in FINDINGS for cause in kind.causes)


def test_a_sound_flow_gives_an_empty_list():
    found = tt.examine(flow_of(nn.LSTM(3, 8), torch.randn(5, 4, 3), each))
    assert found == [] and isinstance(found, list)
    assert repr(found).startswith("nothing found\n") and "learning rate" in repr(found)
    assert "nothing" in found._repr_html_()


def test_findings_are_plain_data_that_json_takes():
    x = torch.randn(9, 4, 3)
    x[4, 2, 1] = math.nan
    found = tt.examine(flow_of(nn.GRU(3, 8), x, each))
    told = json.loads(json.dumps([f.to_dict() for f in found], allow_nan=False))
    assert told[0]["code"] == "input-nonfinite" and told[0]["version"] == 1
    assert told[0]["evidence"][0]["value"] == "nan"
    assert told[1]["follows"] == "input-nonfinite"
    assert "input[4, 2, 1]" in told[0]["what"] and "input-nonfinite" in repr(found)
    assert "<table>" in found._repr_html_()


@pytest.mark.parametrize("reverse", [False, True])
def test_the_input_is_named_by_its_own_index_in_both_directions(reverse):
    x = torch.randn(12, 4, 3)
    x[8, 1, 2] = -math.inf
    flow = flow_of(nn.GRU(3, 8, bidirectional=True), x, each)
    layer = "l0_reverse" if reverse else "l0"
    found = tt.examine({layer: flow[layer]})
    assert found[0].code == "input-nonfinite"
    assert "−inf at input[8, 1, 2]" in found[0].what


def test_a_cause_stands_before_its_symptom_and_is_named_by_it():
    def finding(code, severity, layer="l0"):
        return Finding(code, severity, layer, "", (), "")

    found = [
        finding("vanishes", "warning"),
        finding("no-gradient", "error", "l1"),
        finding("input-scale", "warning"),
        finding("vanishes", "warning", "l1"),
    ]
    order = ranked(found, ["l0", "l1"])
    assert codes(order) == ["input-scale", "no-gradient", "vanishes", "vanishes"]
    assert [f.follows for f in order] == [None, "input-scale", "input-scale", None]
    # A note explains nothing.
    order = ranked([finding("saturated", "note"), finding("vanishes", "warning")], ["l0"])
    assert codes(order) == ["vanishes", "saturated"] and order[0].follows is None


@pytest.mark.parametrize("wrong", [[1], None, "flow"])
def test_what_is_no_flow_is_refused(wrong):
    with pytest.raises(InputTypeError, match="flow"):
        tt.examine(wrong)


def test_a_lag_that_is_no_positive_integer_is_refused():
    flow = flow_of(nn.RNN(3, 4), torch.randn(5, 2, 3), each)
    for wrong in (1.5, True, "7"):
        with pytest.raises(InputTypeError, match="lag"):
            tt.examine(flow, lag=wrong)
    with pytest.raises(InputValueError, match="at least 1"):
        tt.examine(flow, lag=0)


# --- reach and coverage ----------------------------------------------------------------------


def linear(gain: float, T: int, loss, **options) -> tt.Flow:
    """Give the flow of s_t = gain · Q s_{t-1} + x_t with an orthogonal Q."""
    torch.manual_seed(0)
    rnn = tt.RNN(6, 6, nonlinearity="identity", bias=False, dtype=torch.float64)
    with torch.no_grad():
        rnn.weight_hh_l0.copy_(gain * torch.linalg.qr(torch.randn(6, 6))[0])
        rnn.weight_ih_l0.copy_(torch.eye(6))
    x = torch.randn(T, 4, 6, dtype=torch.float64)
    return flow_of(rnn, x, loss, **options)


def weighted(h):
    """Give a loss a step that is linear in the state."""
    return (h * torch.linspace(0.5, 1, h.shape[-1], dtype=h.dtype)).sum((1, 2))


def test_the_steps_that_get_too_little_are_those_of_the_closed_form():
    found = tt.examine(linear(0.8, 60, lambda h: weighted(h)[-1]))
    assert codes(found) == ["vanishes"] and found[0].severity == "warning"
    # .8^21 = .0092: step 60 − 21 = 39 is the last that gets less than 1 %, but for its neighbour.
    assert "steps 1 to 38 of 60" in found[0].what
    assert next(e for e in found[0].evidence if e.decides).value == 38


def test_where_every_step_still_gets_enough_the_rate_says_where_it_ends():
    found = tt.examine(linear(0.8, 16, lambda h: weighted(h)[-1]))
    assert [(f.code, f.severity) for f in found] == [("horizon", "note")]
    assert "after about 21 steps" in found[0].what and "20 % a step" in found[0].what


def test_with_a_loss_at_every_step_it_is_a_note_at_most():
    found = tt.examine(linear(0.8, 60, weighted))
    assert [(f.code, f.severity) for f in found] == [("vanishes", "note")]
    # relative to one step back: .8^l ≥ .01 · .8 up to l = 21
    assert "21 steps back" in found[0].what


@pytest.mark.parametrize("loss", [weighted, lambda h: weighted(h)[-1]])
@pytest.mark.parametrize("lag", [10, 20, 25, 59])
def test_a_lag_that_is_named_decides(loss, lag):
    found = tt.examine(linear(0.8, 60, loss), lag=lag)
    arrives = 0.8 ** (lag - (1 if loss is weighted else 0))
    assert codes(found) == ([] if arrives >= 0.01 else ["vanishes"])
    assert all(f.severity == "warning" for f in found)


def test_a_lag_longer_than_the_sequences_is_a_note():
    found = tt.examine(linear(0.8, 20, weighted), lag=50)
    assert [(f.code, f.severity) for f in found] == [("vanishes", "note")]


def test_a_gain_above_1_explodes_whatever_the_losses():
    for loss in (weighted, lambda h: weighted(h)[-1]):
        found = tt.examine(linear(1.3, 50, loss))
        assert codes(found) == ["explodes"]
        rate = found[0].evidence[1].value
        assert rate == pytest.approx(math.log(1.3), rel=0.15)


def test_a_sum_of_many_losses_that_keep_their_size_does_not_explode():
    assert tt.examine(linear(1.0, 300, weighted)) == []
    found = tt.examine(linear(1.0, 300, lambda h: weighted(h).sum()))
    assert [one.code for one in found] == ["loss-summed"]


def test_no_sentence_says_of_the_weights_what_dropped_contradicts():
    # The inputs that count are far back: nothing else gives dE/dW_x anything.
    torch.manual_seed(0)
    rnn = tt.RNN(3, 16, nonlinearity="tanh", bias=False)
    x = torch.zeros(40, 4, 3)
    x[:3] = 3
    flow = flow_of(rnn, x, last)
    shares = flow["l0"].dropped(tt.Truncated(20))
    assert max(v for v in shares.values() if not math.isnan(v)) > 0.9
    assert all(f.severity == "note" for f in tt.examine(flow) if f.code == "vanishes")


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_where_a_warning_names_a_share_of_the_weights_dropped_agrees(kind):
    torch.manual_seed(0)
    flow = flow_of(kind(4, 24), torch.randn(80, 6, 4), last)
    warned = tt.examine(flow)[0]
    assert warned.code == "vanishes" and warned.severity == "warning"
    shares = flow["l0"].dropped(tt.Truncated(40))
    assert max(shares.values()) < 0.05
    told = next(e for e in warned.evidence if "share of dE/d" in e.quantity)
    assert told.value < 0.05


def test_an_output_gate_that_is_nearly_closed_is_no_decay_through_time():
    torch.manual_seed(0)
    rnn = nn.LSTM(4, 24)
    with torch.no_grad():
        rnn.bias_hh_l0[24:48], rnn.bias_hh_l0[72:] = 6, -6
    flow = flow_of(rnn, torch.randn(40, 6, 4), last)
    profile = flow["l0"].lag_profile()
    assert profile[1] < 0.02, "by the states' norms it looks as if nothing lay beyond lag 0"
    assert max(flow["l0"].dropped(tt.Truncated(1)).values()) > 0.9
    found = tt.examine(flow)
    assert [f.severity for f in found] == ["note"] and "still arrives at every step" in found[
        0
    ].what


@pytest.mark.parametrize("options", [{"window": 15}, {"every": 7}, {"window": 15, "every": 5}])
def test_what_was_not_measured_is_not_taken_for_silent(options):
    torch.manual_seed(0)
    found = tt.examine(flow_of(nn.LSTM(4, 16), torch.randn(60, 4, 4), each, **options))
    assert all(f.severity == "note" for f in found)


def test_thresholds_are_arguments_that_move_the_finding():
    flow = linear(0.95, 40, lambda h: weighted(h)[-1])
    assert list(vanishes(Look(flow), fraction=0.01)) == []
    assert codes(vanishes(Look(flow), fraction=0.2)) == ["vanishes"]
    assert codes(explodes(Look(linear(1.1, 40, weighted)), growth=20)) == ["explodes"]
    rnn, x = nn.GRU(2, 16), 40 * torch.randn(20, 4, 2)
    flow = flow_of(rnn, x, each)
    assert [f.severity for f in input_scale(Look(flow), warn=0.5)] == ["warning"]
    assert [f.severity for f in input_scale(Look(flow), warn=1.1)] == ["note"]
    assert list(input_scale(Look(flow), large=1e4)) == []


# --- single findings -------------------------------------------------------------------------


def test_padding_is_looked_for_by_thresholds_of_its_own():
    torch.manual_seed(0)
    x, lengths = torch.randn(30, 12, 3), torch.randint(10, 25, (12,))
    for row, n in enumerate(lengths):
        x[n:, row] = 0
    flow = flow_of(nn.LSTM(3, 8), x, last)
    found = list(reads_padding(Look(flow)))
    assert codes(found) == ["reads-padding"]
    assert found[0].evidence[1].value == float((30 - lengths).median())
    assert list(reads_padding(Look(flow), longer=50)) == []


@pytest.mark.parametrize("pause", [True, False])
def test_a_pause_that_all_rows_share_is_no_padding(pause):
    torch.manual_seed(0)
    x = torch.randn(30, 12, 3)
    for row in range(12):
        x[(20 if pause else 10 + row) :, row] = 0
    found = list(reads_padding(Look(flow_of(nn.LSTM(3, 8), x, last))))
    assert codes(found) == ([] if pause else ["reads-padding"])


def test_a_few_symbols_that_repeat_by_chance_are_no_padding():
    for seed in range(60):
        torch.manual_seed(seed)
        x = nn.functional.one_hot(torch.randint(2, (6, 4)), 2).float()
        assert list(reads_padding(Look(flow_of(nn.RNN(2, 4), x, each)))) == []


def test_growth_is_told_episode_by_episode():
    torch.manual_seed(0)
    rnn = tt.RNN(6, 6, nonlinearity="identity", bias=False, dtype=torch.float64)
    with torch.no_grad():
        rnn.weight_hh_l0.copy_(1.3 * torch.linalg.qr(torch.randn(6, 6))[0])
    reset = torch.zeros(60, 2, dtype=torch.bool)
    reset[40] = True
    with tt.trace(rnn) as trace:
        h = rnn(torch.randn(60, 2, 6, dtype=torch.float64), reset=reset)[0]
        # What a later episode sends has nothing to do with the one before.
        loss = h[39].sum() + 1e8 * h[41].sum()
    found = tt.examine(trace.flow(loss))
    assert codes(found) == ["explodes"] and "over 39 steps back" in found[0].what


def test_the_rows_that_a_bad_loss_comes_from_are_named():
    torch.manual_seed(0)
    y = torch.zeros(8, 6, 4)
    y[3, 4] = math.nan
    flow = flow_of(nn.LSTM(3, 4), torch.randn(8, 6, 3), lambda h: (h - y).pow(2).mean((1, 2)))
    found = tt.examine(flow)
    assert found[0].code == "loss-nonfinite"
    assert "Loss 3 " in found[0].what and "row 4 " in found[0].what


def test_a_frozen_layer_without_gradient_is_a_note():
    torch.manual_seed(0)
    for frozen in (True, False):
        model = nn.ModuleList([nn.GRU(3, 4), nn.GRU(4, 4)])
        model[0].requires_grad_(not frozen)
        with tt.trace(model) as trace:
            below = model[0](torch.randn(5, 4, 3))[0]
            losses = each(model[1](below.detach())[0])
        found = tt.examine(trace.flow(losses))
        assert codes(found) == ["no-gradient"]
        assert found[0].severity == ("note" if frozen else "error")


def test_a_flow_that_was_cut_says_before_which_steps():
    one = flow_of(nn.GRU(3, 4), torch.randn(12, 4, 3), each)["l0"]
    one.cuts = (5, 9)
    found = tt.examine({"l0": one})
    assert codes(found) == ["state-cut"] and found[0].severity == "warning"
    assert "steps 5, 9 of one sequence of 12" in found[0].what


def test_underflow_is_what_float64_keeps():
    torch.manual_seed(0)
    rnn = tt.RNN(3, 8, nonlinearity="sigmoid")
    found = tt.examine(flow_of(rnn, torch.randn(150, 2, 3), last))
    assert codes(found) == ["vanishes", "underflow"]
    assert found[1].follows == "vanishes" and 0 < found[1].evidence[0].value < 1e-44
    # What a reset cuts is exactly 0 in float64 too.
    reset = torch.zeros(12, 2, dtype=torch.bool)
    reset[6] = True
    layer = tt.GRU(3, 8)
    with tt.trace(layer) as trace:
        loss = last(layer(torch.randn(12, 2, 3), reset=reset)[0])
    assert "underflow" not in codes(tt.examine(trace.flow(loss)))


@pytest.mark.parametrize("spoil", [False, True])
def test_a_layer_whose_cell_is_not_known_is_examined_all_the_same(spoil):
    torch.manual_seed(0)
    one = flow_of(nn.LSTM(3, 16), torch.randn(60, 4, 3), last)["l0"]
    assert len(one.adjoint()) == 61
    object.__setattr__(one.tape, "x", torch.zeros(60, 4, 0))
    object.__setattr__(one.tape, "saved", ())
    if spoil:
        one.tape.s[30, 2] = math.nan
    one.cell = None
    assert codes(tt.examine({"l0": one})) == (["state-overflow"] if spoil else ["vanishes"])


def test_resets_and_rows_of_their_own_length_are_no_alarm():
    torch.manual_seed(0)
    layer, reset = tt.LSTM(3, 16), torch.rand(40, 6) < 0.1
    lengths = torch.tensor([40, 33, 21, 9, 3, 1])
    reset &= torch.arange(40)[:, None] < lengths
    for loss in (each, lambda h: h.pow(2).mean()):
        with tt.trace(layer) as trace:
            losses = loss(layer(torch.randn(40, 6, 3), lengths=lengths, reset=reset)[0])
        assert all(f.severity == "note" for f in tt.examine(trace.flow(losses)))


def test_examining_costs_at_most_a_fifth_of_the_flow():
    torch.manual_seed(0)
    rnn, x = nn.LSTM(16, 64, num_layers=2), torch.randn(100, 16, 16)
    flows, examined = [], []
    for _ in range(3):
        with tt.trace(rnn) as trace:
            losses = each(rnn(x)[0])
        begun = time.process_time()
        flow = trace.flow(losses)
        between = time.process_time()
        tt.examine(flow)
        flows.append(between - begun)
        examined.append(time.process_time() - between)
    assert min(examined) < 0.2 * min(flows)


def test_a_list_of_findings_is_a_list():
    assert Findings([]) == [] and isinstance(Findings(), list)
