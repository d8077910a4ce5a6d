"""Known values: cases whose answer can be written down (eq. 3, 4, 6, 8, 10)."""

from __future__ import annotations

import math

import pytest
import torch

import throughtime as tt
from oracles.by_hand import F64, draw
from throughtime.testing import assert_close

F32 = torch.float32


def scalar(nonlinearity: str, w: float, x: float, s_0: float, T: int, dtype=F64):
    """Give the flow of s_t = f(w s_{t-1} + x) with E_t = s_t, and the module."""
    module = tt.RNN(1, 1, nonlinearity=nonlinearity, bias=False, dtype=dtype)
    with torch.no_grad():
        module.weight_hh_l0.fill_(w)
        module.weight_ih_l0.fill_(1)
    with tt.trace(module) as trace:
        hx = torch.full((1, 1, 1), s_0, dtype=dtype, requires_grad=True)
        output, _ = module(torch.full((T, 1, 1), x, dtype=dtype), hx)
    return trace.flow(output.flatten())["l0"], module


def test_three_linear_steps_have_terms_of_036():
    flow, _ = scalar("identity", 0.2, 0.0, 0.9, 3)
    for t, value in enumerate((0.9, 0.36, 0.108)):
        assert float(flow.weight_grad("weight_hh", loss=t)) == pytest.approx(value, rel=1e-14)
    for k in (1, 2, 3):
        term = float(flow.weight_grad("weight_hh", loss=2, step=k))
        assert term == pytest.approx(0.036, rel=1e-14)
    for t, k in ((0, 2), (0, 3), (1, 3)):
        assert float(flow.weight_grad("weight_hh", loss=t, step=k)) == 0


@pytest.mark.parametrize(("w", "lag", "value"), [(1.0, 20, 9.094947e-13), (2.0, 10, 2.0**-10)])
def test_a_sigmoid_at_its_steepest_multiplies_by_a_quarter_of_w_a_step(w, lag, value):
    flow, _ = scalar("sigmoid", w, -w / 2, 0.5, 80)
    assert float(flow.norms[-1, 80 - lag, 0]) == pytest.approx(value, rel=1e-7)
    for k in range(80):
        assert float(flow.norms[-1, k, 0]) == pytest.approx((w / 4) ** (80 - k), rel=1e-12)
    assert float(flow.jacobian_product(80, 80 - lag)) == pytest.approx(value, rel=1e-7)


def test_a_sigmoid_with_a_weight_of_4_passes_the_gradient_on_exactly():
    flow, _ = scalar("sigmoid", 4.0, -2.0, 0.5, 80)
    assert_close(flow.norms[-1], torch.ones(81, 1, dtype=F64), rtol=0)
    assert flow.horizon() == 80


def test_float32_underflows_to_exactly_zero_at_lag_75_without_a_word():
    flow, _ = scalar("sigmoid", 1.0, -0.5, 0.5, 80, F32)
    by_lag = flow.norms[-1].flatten().flip(0)
    assert 2.8e-45 < float(by_lag[74]) < 2.9e-45
    assert torch.count_nonzero(by_lag[75:]) == 0
    assert flow.first_nonfinite is None
    assert torch.count_nonzero(flow.adjoint()[0]) == 1, "s_0 still feels the first losses"


def test_a_linear_gain_of_2_is_first_inf_at_step_128_in_float32():
    module = tt.RNN(1, 1, nonlinearity="identity", bias=False)
    with torch.no_grad():
        module.weight_hh_l0.fill_(2)
    output, _ = module(torch.zeros(200, 1, 1), torch.ones(1, 1, 1))
    states = output.flatten()
    assert states[:127].isfinite().all() and states[126] == 2.0**127
    assert states[127:].isinf().all()


def test_a_non_normal_weight_has_a_bound_of_1e10_and_a_norm_of_195():
    module = tt.RNN(2, 2, nonlinearity="identity", bias=False, dtype=F64)
    with torch.no_grad():
        module.weight_hh_l0.copy_(torch.tensor([[0.5, 10], [0, 0.5]]))
    with tt.trace(module) as trace:
        output, _ = module(draw(10, 1, 2))
    flow = trace.flow(output.sum((1, 2)))["l0"]
    assert float(flow.bound(10, 0)) == pytest.approx(1.025e10, rel=5e-3)
    norm = float(torch.linalg.matrix_norm(flow.jacobian_product(10, 0), 2))
    assert norm == pytest.approx(0.1953, abs=1e-4)
    power = torch.linalg.matrix_power(torch.tensor([[0.5, 10], [0, 0.5]], dtype=F64), 10)
    assert_close(flow.jacobian_product(10, 0)[0], power)


@pytest.mark.parametrize("kind", [torch.nn.RNN, tt.RNN])
def test_the_default_rnn_has_a_radius_of_1_over_root_3_and_a_norm_of_2_over_root_3(kind):
    W = kind(1, 800).weight_hh_l0.detach()
    assert float(torch.linalg.eigvals(W).abs().max()) == pytest.approx(1 / math.sqrt(3), rel=0.05)
    assert float(torch.linalg.matrix_norm(W, 2)) == pytest.approx(2 / math.sqrt(3), rel=0.02)


def mean_field(g: float) -> float:
    """Give λ₁ of a random tanh network of infinite size: ½ ln(g² ⟨tanh′(z√q)²⟩)."""
    if g < 1:
        return math.log(g)
    z = torch.linspace(-10, 10, 4001, dtype=F64)
    weight = torch.softmax(-z.square() / 2, 0)
    q = torch.ones((), dtype=F64)
    for _ in range(300):
        q = g**2 * (weight * torch.tanh(q.sqrt() * z).square()).sum()
    slope = 1 - torch.tanh(q.sqrt() * z).square()
    return float(0.5 * torch.log(g**2 * (weight * slope.square()).sum()))


@pytest.mark.parametrize(("g", "value"), [(1.5, 0.0652), (2.0, 0.1547), (3.0, 0.3102)])
def test_the_mean_field_oracle_gives_the_values_of_the_design(g, value):
    assert mean_field(g) == pytest.approx(value, abs=1e-4)


@pytest.mark.parametrize(
    ("g", "T", "since", "within"),
    [(0.5, 60, 20, 0.03), (1.5, 350, 100, 0.01), (2.0, 250, 60, 0.01), (3.0, 250, 60, 0.01)],
)
def test_a_random_tanh_network_of_1000_units_has_the_mean_field_exponent(g, T, since, within):
    N = 1000
    module = tt.RNN(1, N, bias=False)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        module.weight_hh_l0.copy_(torch.randn(N, N, generator=generator) * g / math.sqrt(N))
    s_0 = torch.randn(1, 1, N, generator=generator).requires_grad_()
    with tt.trace(module) as trace:
        output, _ = module(torch.zeros(T, 1, 1), s_0)
    flow = trace.flow(output[-1].sum(), every=T)["l0"]
    found = float(flow.lyapunov(1, since=since))
    assert found == pytest.approx(mean_field(g), abs=within)
