"""The remedies: gate biases, an orthogonal W_h, and clipping that can be trusted."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import throughtime as tt
from throughtime.errors import InputTypeError, InputValueError
from throughtime.remedies import chrono_, clip_gradient_, orthogonal_


def sums(layer: nn.Module, suffix: str) -> torch.Tensor:
    return getattr(layer, f"bias_ih_{suffix}") + getattr(layer, f"bias_hh_{suffix}")


@pytest.mark.parametrize("kind", [nn.LSTM, tt.LSTM])
def test_chrono_sets_the_sum_of_the_two_biases_in_every_layer_and_direction(kind):
    layer = chrono_(kind(3, 500, num_layers=2, bidirectional=True), longest=102)
    for suffix in ("l0", "l0_reverse", "l1", "l1_reverse"):
        i, f, g, o = sums(layer, suffix).detach().chunk(4)
        u = f.exp()
        assert u.min() >= 1 and 95 < u.max() <= 101
        assert abs(u.mean() - 51) < 5  # uniform, not log-uniform
        torch.testing.assert_close(i, -f, rtol=0, atol=0)
        assert not g.any() and not o.any()


@pytest.mark.parametrize("kind", [nn.GRU, tt.GRU])
def test_chrono_of_a_gru_keeps_by_its_z_gate(kind):
    before = kind(3, 200)
    r, n = (sums(before, "l0").detach().clone().chunk(3)[k] for k in (0, 2))
    chrono_(before, longest=50)
    r_after, z, n_after = sums(before, "l0").detach().chunk(3)
    torch.testing.assert_close(r_after, r)
    torch.testing.assert_close(n_after, n)
    assert z.min() >= 0 and 40 < z.exp().max() <= 49


def test_chrono_makes_the_gradient_reach():
    x = torch.randn(100, 4, 8)
    reached = {}
    for name, layer in (("plain", tt.LSTM(8, 32)), ("chrono", chrono_(tt.LSTM(8, 32), 100))):
        with tt.trace(layer) as trace:
            loss = layer(x)[0][-1].pow(2).mean()
        reached[name] = trace.flow(loss)["l0"].horizon()
    assert reached["plain"] < 25 < 60 < reached["chrono"]


def test_chrono_refuses_what_has_no_gates_or_biases():
    with pytest.raises(InputTypeError, match="has none"):
        chrono_(nn.RNN(3, 4), 10)
    with pytest.raises(InputTypeError, match="got Linear"):
        chrono_(nn.Linear(3, 4), 10)
    with pytest.raises(InputValueError, match="bias=True"):
        chrono_(nn.LSTM(3, 4, bias=False), 10)
    with pytest.raises(InputValueError, match="at least 3"):
        chrono_(nn.LSTM(3, 4), 2)


@pytest.mark.parametrize("gain", [1.0, 3.0])
def test_orthogonal_gives_every_gate_the_same_singular_values(gain):
    layer = orthogonal_(tt.LSTM(3, 6, num_layers=2, dtype=torch.float64), gain)
    for suffix in ("l0", "l1"):
        for block in getattr(layer, f"weight_hh_{suffix}").chunk(4):
            values = torch.linalg.svdvals(block)
            torch.testing.assert_close(values, torch.full_like(values, gain))


def test_clip_scales_to_the_norm_and_leaves_smaller_gradients_alone():
    a, b = (torch.zeros(2, requires_grad=True) for _ in range(2))
    a.grad, b.grad = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])
    assert clip_gradient_([a, b], 10.0) == 5.0
    assert a.grad[0] == 3.0
    assert clip_gradient_([a, b], 1.0) == 5.0
    torch.testing.assert_close(torch.stack([a.grad[0], b.grad[1]]), torch.tensor([0.6, 0.8]))


def test_clip_survives_a_gradient_whose_square_overflows_float32():
    w = torch.zeros(2, requires_grad=True)
    w.grad = torch.tensor([3e30, 4e30])
    torch_norm = torch.nn.utils.get_total_norm([w.grad])
    assert torch_norm.isinf()  # what clip_grad_norm_ would divide by
    assert clip_gradient_([w], 1.0) == pytest.approx(5e30)
    torch.testing.assert_close(w.grad, torch.tensor([0.6, 0.8]))


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_clip_leaves_what_is_not_finite_to_be_seen(bad):
    w = torch.zeros(2, requires_grad=True)
    w.grad = torch.tensor([bad, 1.0])
    norm = clip_gradient_([w], 1.0)
    assert norm != norm or norm == float("inf")
    assert w.grad[1] == 1.0 and not w.grad[0].isfinite()
