"""Verdicts row by row, of one loss however it is split, and beyond a window (eq. 9)."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from torch import nn

import throughtime as tt
from oracles.by_hand import F64, draw
from throughtime import Verdict
from throughtime.testing import assert_close

WINDOWS = (None, 1, 5, 50)


def at_rest_or_saturated(resting: int, B: int, T: int = 60, H: int = 64) -> tt.Flow:
    """Return the flow of a tanh RNN whose gain is 1.6 in rows at rest and about 0 in the others.

    The loss stands on the last step, so that the flow has one loss that enters at one step.
    """
    module = tt.RNN(H, H, bias=False, dtype=F64)
    with torch.no_grad():
        module.weight_hh_l0.copy_(1.6 * torch.linalg.qr(draw(H, H))[0])
        module.weight_ih_l0.copy_(torch.eye(H))
    x = torch.zeros(T, B, H, dtype=F64)
    x[:, resting:] = 20 * draw(T, B - resting, H).sign()
    with tt.trace(module) as trace:
        loss = module(x)[0][-1].sum()
    return trace.flow(loss)


def judged(losses_of, module, x, *, window=None, **run) -> tt.Diagnosis:
    """Return the diagnosis of a layer's losses."""
    with tt.trace(module) as trace:
        losses = losses_of(module(x, **run)[0])
    return tt.diagnose(trace.flow(losses, window=window))["l0"]


@pytest.mark.parametrize("resting", [1, 4, 8, 10, 11, 19])
def test_rows_that_explode_are_shown_first_however_few_they_are(resting):
    flow = at_rest_or_saturated(resting, 20)
    one = flow["l0"]
    assert float(one.total_norms[60, 0]) == pytest.approx(8)
    assert float(one.total_norms[0, 0]) == pytest.approx(8 * 1.6**60, rel=1e-9)
    found = tt.diagnose(flow)["l0"]
    assert found.verdict is Verdict.EXPLODING
    assert found.shares == {
        Verdict.EXPLODING: resting / 20,
        Verdict.VANISHING: (20 - resting) / 20,
    }
    top = found.evidence[0]
    assert top.decides and top.value == pytest.approx(1.6**60, rel=1e-9)
    share = f"{5 * resting} % of the rows"
    assert share in str(found) and share in found.advice and "Clip" in found.advice
    assert f"{resting} of 20 rows" in {evidence.where for evidence in found.evidence}


def test_rows_that_are_all_alike_have_one_verdict_and_say_no_share():
    for resting, verdict in ((0, Verdict.VANISHING), (20, Verdict.EXPLODING)):
        found = tt.diagnose(at_rest_or_saturated(resting, 20))["l0"]
        assert found.verdict is verdict and found.shares == {verdict: 1.0}
        assert "of the rows" not in str(found)


def gains(*each: float, T: int = 40) -> tt.Flow:
    """Return the flow of h_t = w h_{t−1} + x_t, with another w in each row and a loss a step.

    Unit b has the gain w_b, and in row b the losses read unit b alone.
    """
    N = len(each)
    module = tt.RNN(N, N, nonlinearity="identity", bias=False, dtype=F64)
    with torch.no_grad():
        module.weight_hh_l0.copy_(torch.diag(torch.tensor(each, dtype=F64)))
    with tt.trace(module) as trace:
        losses = (module(draw(T, N, N))[0] * torch.eye(N, dtype=F64)).sum((1, 2))
    return trace.flow(losses)


@pytest.mark.parametrize("few", [1, 2, 19])
def test_rows_that_vanish_count_from_5_percent_on(few):
    found = tt.diagnose(gains(*[0.5] * few, *[1.0] * (20 - few)))["l0"]
    assert found.verdict is Verdict.VANISHING
    assert found.shares == {Verdict.VANISHING: few / 20, Verdict.HEALTHY: (20 - few) / 20}
    assert found.evidence[0].value == pytest.approx(0.5**40, rel=1e-9, abs=0)
    assert f"{5 * few} % of the rows" in found.advice


def test_fewer_than_5_percent_that_vanish_stand_beside_a_healthy_layer():
    found = tt.diagnose(gains(0.5, *[1.0] * 24))["l0"]
    assert found.verdict is Verdict.HEALTHY
    assert found.shares == {Verdict.VANISHING: 0.04, Verdict.HEALTHY: 0.96}
    assert "4 % of the rows it vanishes" in found.advice


def test_the_worst_of_three_verdicts_is_shown_and_all_shares_are_said():
    found = tt.diagnose(gains(1.5, 0.5, 1.0, 1.0))["l0"]
    assert found.verdict is Verdict.EXPLODING
    assert found.shares == {
        Verdict.EXPLODING: 0.25,
        Verdict.VANISHING: 0.25,
        Verdict.HEALTHY: 0.5,
    }
    assert found.headline() == "EXPLODING in 25 % of the rows (VANISHING in 25 %, HEALTHY in 50 %)"


def test_a_row_that_is_not_finite_leaves_the_others_their_verdicts():
    x = draw(30, 4, 3)
    x[4, 2] = math.nan
    found = judged(lambda out: out.pow(2).mean((1, 2)), tt.RNN(3, 5, dtype=F64), x)
    assert found.verdict is Verdict.NONFINITE
    assert found.shares == {Verdict.NONFINITE: 0.25, Verdict.VANISHING: 0.75}


def test_rows_that_no_loss_reaches_are_not_judged():
    module = tt.RNN(3, 5, dtype=F64)
    found = judged(lambda out: out[:, :2].pow(2).sum((1, 2)), module, draw(40, 5, 3))
    assert found.shares == {Verdict.VANISHING: 1.0}


def test_the_lag_profile_of_two_rows_lies_between_them():
    profile = gains(1.0, 0.5, T=100)["l0"].lag_profile()
    want = torch.tensor([statistics.median((1.0, 0.5**lag)) for lag in range(101)], dtype=F64)
    assert_close(profile, want, rtol=1e-12)
    assert float(profile[100]) == 0.5, "not 7.9e-31, the lower of the two"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, F64])
def test_the_median_is_a_true_one_in_every_dtype(dtype):
    from throughtime.flow.lags import _median

    values = torch.tensor([[1, 4, 2, math.nan], [math.nan, 3, 0, 1], [2, 2, math.inf, 8]])
    found = _median(values.T.to(dtype), 0)
    assert found.tolist() == [2, 1, 5] and found.dtype is dtype
    assert _median(torch.tensor([[math.nan], [math.nan]], dtype=dtype), 0).isnan().all()


# What is done with the output (T, B, H): one number each.
LOSSES = {
    "last step": lambda out: out[-1].pow(2).sum(),
    "mean over time": lambda out: out.mean(0).pow(2).sum(),
    "first half": lambda out: out[:50].pow(2).mean(),
    "two steps": lambda out: out[9].sum() + out[89].sum(),
    "every step": lambda out: out.pow(2).mean(),
}
RUNS = {
    "whole": {},
    "ragged": {"lengths": [100, 60, 31]},
    "resets": {"reset": (torch.arange(100) % 37 == 36)[:, None].expand(100, 3)},
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("run", RUNS)
def test_one_loss_is_judged_alike_however_it_is_split_and_whatever_the_window(loss, run):
    """Every layer meets every loss and every run, but not both at once.

    A verdict is made of norms and of which steps a row takes: it never sees the cell.
    """
    turn = list(LOSSES).index(loss) + list(RUNS).index(run)
    module, x = (tt.RNN, tt.LSTM, tt.GRU)[turn % 3](8, 16), torch.randn(100, 3, 8)
    found = []
    for split in (lambda loss: loss, lambda loss: loss[None]):
        with tt.trace(module) as trace:
            losses = split(LOSSES[loss](module(x, **RUNS[run])[0]))
        found += [tt.diagnose(trace.flow(losses, window=window))["l0"] for window in WINDOWS]
    assert len(found) == 8 and all(one == found[0] for one in found[1:])


@pytest.mark.parametrize("kind", [tt.RNN, tt.LSTM, tt.GRU])
def test_two_layers_and_both_directions_are_judged_alike_by_either_split(kind):
    module, x = kind(4, 8, num_layers=2, bidirectional=True), torch.randn(40, 3, 4)
    with tt.trace(module) as trace:
        loss = module(x)[0].mean(0).pow(2).sum()
    assert tt.diagnose(trace.flow(loss)) == tt.diagnose(trace.flow(loss[None]))


@pytest.mark.parametrize("split", [lambda loss: loss, lambda loss: loss[None]])
def test_a_loss_that_reaches_every_step_is_healthy_though_each_part_falls(split):
    module = torch.nn.LSTM(8, 64)
    with tt.trace(module) as trace:
        loss = module(torch.randn(100, 4, 8))[0].mean(0).pow(2).sum()
    flow = trace.flow(split(loss))
    norms = flow["l0"].total_norms.mean(1)
    assert 0.3 < float(norms[1] / norms[100]) < 3, "flat"
    found = tt.diagnose(flow)["l0"]
    assert found.verdict is Verdict.HEALTHY
    assert "hardly" not in found.advice


@pytest.mark.parametrize("split", [lambda loss: loss, lambda loss: loss[None]])
def test_steps_between_two_losses_that_neither_reaches_vanish_and_are_named(split):
    found = judged(
        lambda out: split(LOSSES["two steps"](out)), tt.RNN(8, 16), torch.randn(100, 3, 8)
    )
    assert found.verdict is Verdict.VANISHING
    assert found.evidence[0].where in {"step 0", "step 11"} and "Steps 11 to" in found.advice


def linear(gain: float, N: int = 4) -> tt.RNN:
    """Return h_t = gain · Q h_{t−1} + W_x x_t with an orthogonal Q."""
    module = tt.RNN(N, N, nonlinearity="identity", bias=False, dtype=F64)
    with torch.no_grad():
        module.weight_hh_l0.copy_(gain * torch.linalg.qr(draw(N, N))[0])
    return module


@pytest.mark.parametrize("gain", [0.8, 0.97, 1.0, 1.05, 1.3])
@pytest.mark.parametrize("split", [lambda loss: loss, lambda loss: loss[None]])
def test_one_loss_on_the_last_step_has_the_numbers_of_the_lag_profile(gain, split):
    module, T = linear(gain), 60
    found = judged(lambda out: split(out[-1].sum()), module, draw(T, 3, 4))
    want = (
        Verdict.EXPLODING
        if gain**T >= 100
        else Verdict.VANISHING
        if gain**T < 0.01
        else Verdict.HEALTHY
    )
    assert found.verdict is want and found.shares == {want: 1.0}
    values = [evidence.value for evidence in found.evidence[:3]]
    assert any(value == pytest.approx(gain**T, rel=1e-9) for value in values)
    assert any(value == pytest.approx(math.log(gain), rel=1e-9, abs=1e-12) for value in values)


def test_parts_that_grow_together_do_not_explode_by_their_number():
    """200 equal losses under a gain of 1 add up to 200 times one of them."""
    module = tt.RNN(1, 1, nonlinearity="identity", bias=False, dtype=F64)
    nn.init.ones_(module.weight_hh_l0)
    assert judged(lambda out: out.sum(), module, draw(200, 2, 1)).verdict is Verdict.HEALTHY


@pytest.mark.parametrize("split", [lambda loss: loss, lambda loss: loss[None]])
def test_an_initial_state_that_alone_gets_nothing_is_no_step_that_vanishes(split):
    """Row 0 is saturated at step 1; the loss enters at every step, and reaches every one."""
    x = torch.randn(40, 10, 3)
    x[0, 0] = 1e4
    found = judged(lambda out: split(out.sum()), tt.RNN(3, 16), x)
    assert found.shares == {Verdict.HEALTHY: 1.0}


def test_one_step_at_which_two_parts_cancel_is_no_vanishing():
    module = tt.RNN(1, 1, nonlinearity="identity", bias=False, dtype=F64)
    nn.init.ones_(module.weight_hh_l0)
    weights = torch.ones(40, 1, 1, dtype=F64)
    weights[20] = -19  # what comes from the 19 steps behind it is cancelled there
    found = judged(lambda out: (out * weights).sum(), module, draw(40, 2, 1))
    assert found.verdict is Verdict.HEALTHY


@pytest.mark.parametrize("window", [1, 3, 5, 20, 99])
@pytest.mark.parametrize("kind", [torch.nn.LSTM, torch.nn.RNN, torch.nn.GRU])
def test_a_window_makes_no_layer_healthy(kind, window):
    module, x = kind(8, 32), torch.randn(100, 4, 8)
    whole = judged(lambda out: out.pow(2).mean((1, 2)), module, x)
    part = judged(lambda out: out.pow(2).mean((1, 2)), module, x, window=window)
    assert whole.verdict is part.verdict is Verdict.VANISHING
    assert part.shares == whole.shares
    assert any(f"window of {window}" in e.quantity and e.value == 3 for e in part.evidence)
    assert not any("window" in e.quantity for e in whole.evidence)


@pytest.mark.parametrize("window", [1, 5, 20])
@pytest.mark.parametrize(
    ("gain", "verdict"),
    [(1.0, Verdict.HEALTHY), (1.2, Verdict.EXPLODING), (0.8, Verdict.VANISHING)],
)
@pytest.mark.parametrize("run", RUNS)
def test_what_lies_beyond_a_window_is_followed_in_every_row(run, gain, verdict, window):
    module, x = linear(gain), draw(100, 3, 4)
    losses = lambda out: out.sum((1, 2))  # noqa: E731
    whole = judged(losses, module, x, **RUNS[run])
    part = judged(losses, module, x, window=window, **RUNS[run])
    assert part.shares == whole.shares and part.verdict is whole.verdict is verdict


@pytest.mark.parametrize("window", [1, 5])
def test_a_window_is_seen_through_in_a_stack_of_both_directions(window):
    module, x = torch.nn.GRU(4, 8, num_layers=2, bidirectional=True), torch.randn(60, 3, 4)
    with tt.trace(module) as trace:
        losses = module(x)[0].pow(2).mean((1, 2))
    whole, part = (tt.diagnose(trace.flow(losses, window=w)) for w in (None, window))
    assert {n: d.verdict for n, d in part.items()} == {n: d.verdict for n, d in whole.items()}


def test_a_horizon_that_is_the_windows_end_is_shown_as_at_least_that():
    module = linear(1.0)
    with tt.trace(module) as trace:
        losses = module(draw(50, 2, 4))[0].sum((1, 2))
    flow = trace.flow(losses, window=5)
    one = flow["l0"]
    assert one.horizon() == one.window_ends == 5
    assert one.horizon_text() == "≥ 5" and "≥ 5 of 50" in repr(flow)
    whole = trace.flow(losses)["l0"]
    assert whole.window_ends is None and whole.horizon_text() == "50"
    short = trace.flow(losses, window=50)["l0"]
    assert short.window_ends is None, "nothing lies beyond"


def test_the_advice_of_many_losses_says_that_nearer_ones_reach_each_step():
    module = torch.nn.LSTM(8, 32)
    found = judged(lambda out: out.pow(2).mean((1, 2)), module, torch.randn(100, 4, 8))
    assert found.verdict is Verdict.VANISHING
    assert "Every step is still reached" in found.advice and "hardly" not in found.advice
    covered = next(e for e in found.evidence if "all losses together" in e.quantity)
    assert covered.value > 0.01 and covered.threshold is None


def test_the_advice_of_two_losses_far_apart_does_not_say_so():
    losses = lambda out: torch.stack((out[49].sum(), out[99].sum()))  # noqa: E731
    found = judged(losses, torch.nn.LSTM(8, 32), torch.randn(100, 4, 8))
    assert found.verdict is Verdict.VANISHING
    assert "hardly" in found.advice and "Every step" not in found.advice
