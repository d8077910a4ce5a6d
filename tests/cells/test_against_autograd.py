"""Gradients against three oracles: an unrolled graph, dense Jacobians, forward accumulation.

Everything in float64, term by term, relative to each term's own norm (eq. 1, 4, 5, 9).
"""

from __future__ import annotations

import pytest
import torch

import throughtime as tt
from oracles.by_hand import (
    F64,
    KINDS,
    REGIMES,
    as_hx,
    draw,
    forward_accumulation,
    gradient,
    jacobians,
    layer,
    put_into,
    state_width,
    step,
    unrolled,
    weights_of,
)
from throughtime.testing import assert_close, check_cell

pytestmark = pytest.mark.usefixtures("each_kernel")

SHAPES = [(1, 1, 1, 1), (1, 3, 2, 5), (9, 1, 4, 3), (7, 5, 3, 11), (23, 2, 1, 7)]


def compare(module, x, s_0):
    """Compare output, final state, and every gradient with those of the unrolled graph."""
    x, s_0 = x.requires_grad_(), s_0.requires_grad_()
    output, final = module(x, as_hx(module, s_0))
    final = torch.cat(final, -1) if isinstance(final, tuple) else final
    want, runs = unrolled(module, x, s_0)
    want_final = torch.stack([run.states[-1] for run in runs.values()])
    assert_close(output, want, name="output", rtol=1e-11)
    assert_close(final, want_final, name="final state", rtol=1e-11)
    g, g_T = draw(*output.shape, seed=1), draw(*final.shape, seed=2)
    named = {"x": x, "s_0": s_0, **dict(module.named_parameters())}
    got = gradient((output * g).sum() + (final * g_T).sum(), list(named.values()))
    true = gradient((want * g).sum() + (want_final * g_T).sum(), list(named.values()))
    for name, a, b in zip(named, got, true, strict=True):
        assert b.abs().max() > 0
        assert_close(a, b, name=f"dE/d({name})", rtol=1e-9)


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_the_unrolled_loop_in_every_regime(kind, regime):
    module = put_into(regime, layer(kind, 3, 5))
    compare(module, draw(12, 2, 3), draw(1, 2, state_width(module)))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["tanh", "lstm", "gru"])
def test_gradients_are_those_of_the_unrolled_loop_at_every_shape(kind, shape):
    T, B, I, H = shape
    module = layer(kind, I, H)
    compare(module, draw(T, B, I), draw(1, B, state_width(module)))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_three_layers_in_both_directions(kind, bias):
    module = layer(kind, 3, 4, num_layers=3, bidirectional=True, bias=bias)
    compare(module, draw(5, 2, 3), draw(6, 2, state_width(module)))


def test_gradients_of_a_projected_lstm_in_both_directions():
    module = layer("lstm", 3, 5, num_layers=2, bidirectional=True, proj_size=2)
    compare(module, draw(6, 3, 3), draw(4, 3, state_width(module)))


@pytest.mark.parametrize("kind", ["tanh", "lstm", "gru"])
def test_a_vanished_gradient_is_right_to_the_last_digits(kind):
    module = put_into("contracting", layer(kind, 2, 4))
    s_0 = draw(1, 1, state_width(module)).requires_grad_()
    x = draw(60, 1, 2)
    got = gradient(module(x, as_hx(module, s_0))[0][-1].sum(), s_0)
    want = gradient(unrolled(module, x, s_0)[0][-1].sum(), s_0)
    assert want.norm() < 1e-10
    assert_close(got, want, rtol=1e-9, name="dE_T/ds_0")


@pytest.mark.parametrize("kind", ["tanh", "sigmoid", "lstm", "gru"])
def test_weight_gradients_are_those_of_forward_accumulation(kind):
    module = put_into("orthogonal", layer(kind, 2, 3))
    x, s_0, g = draw(15, 2), draw(state_width(module)), draw(15, 3)
    output, _ = module(x[:, None], as_hx(module, s_0[None, None]))
    (output[:, 0] * g).sum().backward()
    wide = torch.zeros(15, state_width(module), dtype=F64)
    wide[:, :3] = g
    want = forward_accumulation(kind, weights_of(module, "l0"), x, s_0, wide)
    for name, weight in weights_of(module, "l0").items():
        assert_close(weight.grad, want[name], rtol=1e-10, name=name)


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("kind", ["tanh", "relu", "sigmoid", "lstm", "gru"])
def test_jacobians_and_their_products_are_those_of_dense_autograd(kind, regime):
    module = put_into(regime, layer(kind, 2, 4))
    x, s_0 = draw(8, 2), draw(state_width(module))
    with tt.trace(module) as trace:
        output, _ = module(x[:, None], as_hx(module, s_0[None, None].requires_grad_()))
    flow = trace.flow(output.pow(2).sum((1, 2)))["l0"]
    states = [s_0.detach()]
    w = weights_of(module, "l0")
    for x_t in x:
        states.append(step(kind, w, x_t, states[-1]).detach())
    dense = jacobians(kind, w, x, torch.stack(states))
    product = torch.eye(len(s_0), dtype=F64)
    for t in range(1, 9):
        assert_close(flow.jacobian(t)[0], dense[t - 1], name=f"J_{t}")
        product = dense[t - 1] @ product
        assert_close(flow.jacobian_product(t, 0)[0], product, rtol=1e-9, name=f"ds_{t}/ds_0")
    middle = dense[5] @ dense[4] @ dense[3]
    assert_close(flow.jacobian_product(6, 3)[0], middle, name="ds_6/ds_3")
    assert_close(flow.jacobian_product(4, 4)[0], torch.eye(len(s_0), dtype=F64), rtol=0)
    values = torch.linalg.svdvals(dense[2])
    assert_close(flow.singular_values(3)[0], values, rtol=1e-10, name="singular values of J_3")


@pytest.mark.parametrize(
    "cell",
    [
        *(tt.cells.Elman(3, 5, f) for f in ("tanh", "relu", "sigmoid", "identity")),
        tt.cells.Elman(2, 3, bias=False),
        tt.cells.LSTM(3, 5),
        tt.cells.LSTM(3, 5, bias=False, proj_size=2),
        tt.cells.GRU(3, 5),
        tt.cells.GRU(1, 1, bias=False),
    ],
    ids=lambda cell: f"{type(cell).__name__}-{getattr(cell, 'nonlinearity', '')}",
)
def test_every_cell_passes_its_own_check_at_any_length(cell):
    for T, B in ((1, 1), (6, 3), (17, 2)):
        check_cell(cell, T=T, B=B)
