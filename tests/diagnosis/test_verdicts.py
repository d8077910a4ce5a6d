"""Verdicts on closed cases, and what they rest on (eq. 7, 8, 9, 10)."""

from __future__ import annotations

import math

import pytest
import torch

import throughtime as tt
from oracles.by_hand import F64, draw
from throughtime import Verdict
from throughtime.errors import InputTypeError, InputValueError
from throughtime.testing import assert_close

T = 100


def linear(W: torch.Tensor, T: int, s_0: torch.Tensor | None = None, **options):
    """Give the flow of s_t = W s_{t-1} + x_t with a loss a step, each linear in the state."""
    N = len(W)
    module = tt.RNN(N, N, nonlinearity="identity", bias=False, dtype=W.dtype)
    with torch.no_grad():
        module.weight_hh_l0.copy_(W)
        module.weight_ih_l0.copy_(torch.eye(N))
    x = draw(T, 2, N, dtype=W.dtype) if s_0 is None else torch.zeros(T, 1, N, dtype=W.dtype)
    with tt.trace(module) as trace:
        output, _ = module(x, None if s_0 is None else s_0[None, None].clone())
    return trace.flow((output * draw(N, dtype=W.dtype)).sum((1, 2)), **options)


def deciding(diagnosis: tt.Diagnosis) -> list[tt.Evidence]:
    """Give what the verdict rests on."""
    return [e for e in diagnosis.evidence if e.decides]


def test_an_orthogonal_linear_recurrence_is_healthy_with_every_singular_value_1():
    W, _ = torch.linalg.qr(draw(6, 6))
    flow = linear(W, T)
    assert tt.diagnose(flow)["l0"].verdict is Verdict.HEALTHY
    one = flow["l0"]
    for t in (1, 2, T // 2, T):
        assert_close(one.singular_values(t), torch.ones(2, 6, dtype=F64), rtol=1e-12)
    product = one.jacobian_product(T, 0)
    assert_close(torch.linalg.svdvals(product), torch.ones(2, 6, dtype=F64), rtol=1e-12)
    assert_close(one.lag_profile(), torch.ones(T + 1, dtype=F64), rtol=1e-12)
    assert one.lyapunov().abs().max() < 1e-13


@pytest.mark.parametrize("kind", [torch.nn.RNN, tt.RNN])
def test_the_default_rnn_over_100_steps_vanishes_although_its_bound_grows(kind):
    module = kind(8, 128)
    with tt.trace(module) as trace:
        losses = module(torch.randn(T, 4, 8))[0].pow(2).mean((1, 2))
    flow = trace.flow(losses)
    diagnosis = tt.diagnose(flow)["l0"]
    assert diagnosis.verdict is Verdict.VANISHING
    bound = flow["l0"].bound(T, 0)
    assert (bound > 10).all(), "W_h's norm tends to 1.155, so the bound grows by 15 % a step"
    beside = [e for e in diagnosis.evidence if "bound" in e.quantity]
    assert beside and all(not e.decides for e in beside)
    assert beside[0].value == pytest.approx(float(bound[0]), rel=1e-6)


@pytest.mark.parametrize("steps", [10, 100])
def test_a_non_normal_weight_vanishes_although_its_bound_over_ten_steps_is_1e10(steps):
    flow = linear(torch.tensor([[0.5, 10], [0, 0.5]], dtype=F64), steps)
    diagnosis = tt.diagnose(flow)["l0"]
    assert diagnosis.verdict is Verdict.VANISHING
    assert float(flow["l0"].bound(10, 0)[0]) == pytest.approx(1.025e10, rel=5e-3)
    assert deciding(diagnosis)[0].equation == "eq. 9"


@pytest.mark.parametrize("steps", [20, 100])
def test_a_linear_gain_of_one_and_a_half_explodes(steps):
    W, _ = torch.linalg.qr(draw(4, 4))
    flow = linear(1.5 * W, steps)
    diagnosis = tt.diagnose(flow)["l0"]
    assert diagnosis.verdict is Verdict.EXPLODING
    top = deciding(diagnosis)[0]
    assert top.where == f"lag {steps}" and top.threshold == 100
    assert top.value == pytest.approx(1.5**steps, rel=1e-9)


def test_a_float32_gain_of_2_is_non_finite_forward_at_step_128_with_inf():
    flow = linear(torch.tensor([[2.0]]), 200, s_0=torch.ones(1))
    diagnosis = tt.diagnose(flow)["l0"]
    assert diagnosis.verdict is Verdict.NONFINITE
    assert flow["l0"].first_nonfinite == ("forward", 128, 0, 0, "inf")
    evidence = deciding(diagnosis)[0]
    assert evidence.equation == "eq. 10" and evidence.value == math.inf
    assert "forward" in evidence.quantity and evidence.where == "step 128, row 0, unit 0"


def test_a_contracting_linear_recurrence_vanishes_at_the_rate_of_its_gain():
    W, _ = torch.linalg.qr(draw(4, 4))
    one = linear(0.8 * W, T)
    assert tt.diagnose(one)["l0"].verdict is Verdict.VANISHING
    profile = one["l0"].lag_profile()
    assert_close(profile, 0.8 ** torch.arange(T + 1, dtype=F64), rtol=1e-9)
    assert one["l0"].horizon() == int(math.log(0.01) / math.log(0.8))


def test_each_threshold_is_an_argument_that_moves_the_verdict():
    W, _ = torch.linalg.qr(draw(4, 4))
    slow, fast = linear(0.99 * W, 50), linear(1.02 * W, 50)
    assert tt.diagnose(slow)["l0"].verdict is Verdict.HEALTHY
    assert tt.diagnose(slow, fraction=0.7)["l0"].verdict is Verdict.VANISHING
    assert tt.diagnose(fast)["l0"].verdict is Verdict.HEALTHY
    assert tt.diagnose(fast, growth=2)["l0"].verdict is Verdict.EXPLODING


@pytest.mark.parametrize(
    "wrong", [{"fraction": 0}, {"fraction": 1}, {"growth": 1}, {"fraction": -1}, {"growth": 0.5}]
)
def test_thresholds_out_of_order_are_refused(wrong):
    flow = linear(torch.eye(2, dtype=F64), 3)
    with pytest.raises(InputValueError, match="0 < fraction < 1 < growth"):
        tt.diagnose(flow, **wrong)


def test_what_is_no_flow_is_refused():
    with pytest.raises(InputTypeError, match="list"):
        tt.diagnose([1, 2])


def test_every_layer_of_a_model_gets_a_verdict_with_evidence_that_says_where():
    model = tt.LSTM(3, 8, num_layers=2, bidirectional=True)
    with tt.trace(model) as trace:
        losses = model(torch.randn(30, 2, 3))[0].pow(2).mean((1, 2))
    flow = trace.flow(losses)
    found = tt.diagnose(flow)
    assert list(found) == list(flow) == ["l0", "l0_reverse", "l1", "l1_reverse"]
    for name, diagnosis in found.items():
        assert diagnosis.layer == name and diagnosis.advice
        assert deciding(diagnosis)
        for evidence in diagnosis.evidence:
            assert evidence.quantity and evidence.where and evidence.equation.startswith("eq. ")
            assert math.isfinite(evidence.value)
            assert (evidence.threshold is None) <= (not evidence.decides)


def test_one_step_alone_is_judged_without_an_error():
    flow = linear(torch.eye(2, dtype=F64), 1)
    assert tt.diagnose(flow)["l0"].verdict is Verdict.HEALTHY


def test_a_layer_that_no_gradient_reaches_is_vanishing_and_says_so():
    model = torch.nn.ModuleList([tt.GRU(3, 4), tt.GRU(4, 4)])
    with tt.trace(model) as trace:
        below = model[0](torch.randn(5, 2, 3))[0]
        losses = model[1](below.detach())[0].pow(2).sum((1, 2))
    flow = trace.flow(losses)
    diagnosis = tt.diagnose(flow)["0.l0"]
    assert torch.count_nonzero(flow["0.l0"].norms) == 0
    assert diagnosis.verdict is Verdict.VANISHING
    assert deciding(diagnosis)[0].value == 0
