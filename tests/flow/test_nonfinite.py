"""The first number that is not finite: direction, step, row, unit, inf or NaN (eq. 10)."""

from __future__ import annotations

import math

import pytest
import torch

import throughtime as tt
from oracles.by_hand import F64, draw, layer
from throughtime import Verdict


def steep(dtype=torch.float32, gain: float = 2.0, N: int = 1) -> tt.RNN:
    """Give a tanh RNN that amplifies gradients as long as its state stays at 0."""
    module = tt.RNN(N, N, bias=False, dtype=dtype)
    with torch.no_grad():
        module.weight_hh_l0.copy_(gain * torch.eye(N))
        module.weight_ih_l0.copy_(torch.eye(N))
    return module


def flow_of(module, x, loss=lambda output: output.sum((1, 2)), **options):
    """Give the flow of a layer's output."""
    with tt.trace(module) as trace:
        losses = loss(module(x, **options)[0])
    return trace.flow(losses)


def test_a_gradient_that_overflows_over_finite_states_is_backward_inf():
    flow = flow_of(steep(), torch.zeros(200, 1, 1), lambda output: output[-1].sum())
    one = flow["l0"]
    assert one.tape.s.isfinite().all()
    assert one.first_nonfinite == ("backward", 200 - 128, 0, 0, "inf")
    diagnosis = tt.diagnose(flow)["l0"]
    assert diagnosis.verdict is Verdict.NONFINITE
    evidence = next(e for e in diagnosis.evidence if e.decides)
    assert evidence.value == math.inf and "backward" in evidence.quantity
    assert "clip" in diagnosis.advice


def test_the_row_and_unit_of_a_backward_overflow_are_named():
    x = torch.zeros(150, 3, 2)
    x[:, 0] = x[:, 2] = 9  # saturated: nothing passes
    x[:, 1, 0] = 9
    one = flow_of(steep(N=2), x, lambda output: output[-1].sum())["l0"]
    assert one.first_nonfinite == ("backward", 150 - 128, 1, 1, "inf")


@pytest.mark.parametrize("kind", ["tanh", "lstm", "gru"])
def test_a_nan_in_the_input_is_named_by_its_step_and_row(kind):
    x = draw(9, 3, 2)
    x[4, 1, 0] = math.nan
    bad = flow_of(layer(kind, 2, 4), x)["l0"].first_nonfinite
    assert bad[:3] == ("forward", 5, 1) and bad.kind == "nan"


def test_a_reverse_direction_counts_its_own_steps():
    x = draw(9, 3, 2)
    x[2, 1, 0] = math.nan
    flow = flow_of(layer("gru", 2, 4, bidirectional=True), x)
    assert flow["l0"].first_nonfinite[:3] == ("forward", 3, 1)
    assert flow["l0_reverse"].first_nonfinite[:3] == ("forward", 7, 1)


def test_inf_is_not_called_nan_even_where_both_stand_in_one_step():
    module = tt.RNN(2, 2, nonlinearity="identity", bias=False)
    with torch.no_grad():
        module.weight_hh_l0.copy_(torch.tensor([[2.0, 0.0], [1.0, -1.0]]))
        module.weight_ih_l0.copy_(torch.eye(2))
    x = torch.zeros(140, 1, 2)
    x[0, 0, 0] = 1
    one = flow_of(module, x)["l0"]
    assert one.tape.s.isnan().any(), "inf - inf comes a step later"
    step = int((~one.tape.s.isfinite()).flatten(1).any(1).nonzero()[0])
    assert one.first_nonfinite.kind == "inf" and one.first_nonfinite.step == step
    both = torch.tensor([[[1.0, 1.0]], [[math.nan, math.inf]], [[math.nan, math.nan]]])
    from throughtime.flow.nonfinite import first_nonfinite

    assert first_nonfinite(both, torch.zeros_like(both)) == ("forward", 1, 0, 1, "inf")


def test_a_nan_before_any_inf_is_called_nan():
    x = draw(6, 1, 1)
    x[2] = math.nan
    module = tt.RNN(1, 1, nonlinearity="identity", dtype=F64)
    one = flow_of(module, x)["l0"]
    assert one.first_nonfinite.kind == "nan"
    assert "NaN" in tt.diagnose({"l0": one})["l0"].advice


def test_a_loss_whose_gradient_is_nan_is_found_backward_at_its_step():
    x = draw(8, 2, 3)

    def loss(output):
        # √0 has the derivative inf, and 0·inf is NaN: a classic.
        spoiled = (output[4, 1] * 0).pow(2).sum().sqrt()
        return torch.stack((output.pow(2).sum(), spoiled))

    one = flow_of(layer("gru", 3, 4), x, loss)["l0"]
    assert one.first_nonfinite[:3] == ("backward", 5, 1)
    assert one.first_nonfinite.kind == "nan"


def test_an_infinite_loss_gradient_is_found_backward_as_inf():
    x = draw(8, 2, 3)
    weights = torch.ones(8, 2, 4, dtype=F64)
    weights[3, 0, 2] = math.inf
    one = flow_of(layer("tanh", 3, 4), x, lambda output: (output * weights).sum((1, 2)))["l0"]
    assert one.first_nonfinite == ("backward", 4, 0, 2, "inf")


def test_padding_that_is_not_finite_is_not_a_finding():
    x = draw(6, 2, 3)
    x[3:, 1] = math.nan
    one = flow_of(layer("lstm", 3, 4), x, lengths=[6, 3])["l0"]
    assert one.first_nonfinite is None


@pytest.mark.parametrize("kind", ["tanh", "lstm", "gru"])
def test_a_finite_flow_says_none(kind):
    assert flow_of(layer(kind, 2, 4), draw(9, 3, 2))["l0"].first_nonfinite is None


def test_a_flow_with_non_finite_numbers_still_answers():
    one = flow_of(steep(), torch.zeros(200, 2, 1))["l0"]
    assert one.singular_values(3).shape == (2, 1)
    assert one.horizon() >= 0 and repr(one) and one.lag_profile().shape == (201,)
    assert one.bound(200, 0, tight=True).shape == (2,)
