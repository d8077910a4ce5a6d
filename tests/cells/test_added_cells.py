"""The cells that the contract alone carries, against loops of autograd (eq. 1, 4, 5, 9)."""

from __future__ import annotations

import pytest
import torch

import throughtime as tt
from throughtime.errors import InputValueError, UnsupportedError
from throughtime.testing import assert_close, check_cell

from .loops import CELLS, F64, LENGTHS, B, H, I, T, cell_of, copies_of, draw, loop, resets

RAGGED = {"lengths": LENGTHS, "reset": resets()}
SCHEDULES = {
    "full": tt.Full(),
    "checkpointed": tt.Checkpointed(2),
    "checkpointed in a budget": tt.Checkpointed(memory=4000),
    "truncated beyond T": tt.Truncated(T, 1),
}


def per_step(h):
    """Give one loss a step."""
    return (h * draw(*h.shape, seed=1)).sum((1, 2)) + h.pow(2).sum((1, 2))


def derived(h, s_T, of):
    """Give the gradients of a loss on the outputs and on the final state."""
    loss = per_step(h).sum() + (s_T * draw(*s_T.shape, seed=2)).sum()
    return torch.autograd.grad(loss, of, materialize_grads=True)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("name", CELLS)
def test_each_cell_passes_check_cell(name, bias):
    check_cell(cell_of(name, bias=bias))
    check_cell(CELLS[name](1, 1), T=1, B=1)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", CELLS)
def test_gradients_are_those_of_the_loop_with_lengths_and_resets(name, schedule):
    cell = cell_of(name)
    x, s_0 = draw(T, B, I).requires_grad_(), draw(B, cell.state_size).requires_grad_()
    of = {"x": x, "s_0": s_0, **cell.weights()}
    h, s_T = tt.Recurrent(cell, through=SCHEDULES[schedule])(x, s_0, **RAGGED)
    want_h, states = loop(name, copies_of(cell, T), x, s_0, **RAGGED)
    assert_close(h, want_h, rtol=1e-13, name="output")
    assert_close(s_T, states[-1], rtol=1e-13, name="final state")
    got, want = derived(h, s_T, list(of.values())), derived(want_h, states[-1], list(of.values()))
    for what, a, b in zip(of, got, want, strict=True):
        assert b.norm() > 1e-6
        assert_close(a, b, rtol=1e-12, name=f"dE/d({what})")


@pytest.mark.parametrize("name", CELLS)
def test_each_term_of_the_split_is_the_loops_and_the_terms_sum_to_grad(name):
    cell = cell_of(name)
    layer, x = tt.Recurrent(cell), draw(T, B, I)
    with tt.trace(layer) as trace:
        losses = per_step(layer(x, **RAGGED)[0])
    flow = trace.flow(losses)["l0"]
    losses.sum().backward()
    copies = copies_of(cell, T)
    s_0 = torch.zeros(B, cell.state_size, dtype=F64, requires_grad=True)
    h, states = loop(name, copies, x, s_0, **RAGGED)
    oracle = per_step(h)
    total = {weight: torch.zeros_like(w) for weight, w in cell.weights().items()}
    for v in range(T):
        every = [w for copy in copies for w in copy.values()]
        found = iter(
            torch.autograd.grad(
                oracle[v], [*every, *states], retain_graph=True, materialize_grads=True
            )
        )
        for k in range(1, T + 1):
            for weight in total:
                term = flow.weight_grad(weight, loss=v, step=k)
                assert_close(term, next(found), rtol=1e-11, name=f"{weight}[{v}, {k}]")
                total[weight] += term
        assert_close(flow.adjoint(v), torch.stack(list(found)), rtol=1e-12, name=f"dE_{v}/ds")
    for weight, parameter in cell.weights().items():
        assert_close(total[weight], parameter.grad, rtol=1e-12, name=weight)


@pytest.mark.parametrize("name", CELLS)
def test_jacobians_exponents_and_bounds_hold_for_the_added_cells(name):
    cell = cell_of(name)
    layer = tt.Recurrent(cell)
    with tt.trace(layer) as trace:
        losses = per_step(layer(draw(T, B, I))[0])
    flow = trace.flow(losses)["l0"]
    dets = torch.stack([torch.linalg.slogdet(flow.jacobian(t))[1] for t in range(1, T + 1)])
    assert_close(flow.lyapunov().sum(1), dets.mean(0), rtol=1e-10)
    product = flow.jacobian(4) @ flow.jacobian(3)
    assert_close(flow.jacobian_product(4, 2), product, rtol=1e-12)
    true = torch.linalg.matrix_norm(product, 2)
    assert (flow.bound(4, 2, tight=True) >= true * (1 - 1e-12)).all()
    with pytest.raises(UnsupportedError, match="tight=True"):
        flow.bound(4, 2)


@pytest.mark.parametrize("name", CELLS)
def test_a_window_keeps_the_terms_within_it_and_no_other(name):
    cell, window = cell_of(name), 3
    x = draw(T, B, I)
    layer = tt.Recurrent(cell)
    with tt.trace(layer) as trace:
        losses = per_step(layer(x, **RAGGED)[0])
    flow = trace.flow(losses)["l0"]
    tt.set_through(layer, tt.Truncated(window, 1))
    per_step(layer(x, **RAGGED)[0]).sum().backward()
    for weight, parameter in cell.weights().items():
        kept = sum(
            flow.weight_grad(weight, loss=v, step=k)
            for v in range(T)
            for k in range(max(1, v + 2 - window), v + 2)
        )
        assert_close(parameter.grad, kept, rtol=1e-12, name=weight)


@pytest.mark.parametrize("name", CELLS)
def test_first_and_second_derivatives_pass_torchs_own_check(name):
    cell = cell_of(name, 2, 2)
    layer = tt.Recurrent(cell)
    x, s_0 = draw(3, 1, 2).requires_grad_(), draw(1, cell.state_size).requires_grad_()

    def run(x, s_0, *weights):
        named = dict(zip((f"cell.{n}" for n in cell.weights()), weights, strict=True))
        return torch.func.functional_call(layer, named, (x, s_0))

    inputs = (x, s_0, *cell.weights().values())
    assert torch.autograd.gradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(run, inputs)


# --- what is known about each ---------------------------------------------------------------


def test_a_leak_of_one_is_the_elman_cell():
    leaky = tt.cells.Leaky(I, H, 1.0, "sigmoid", dtype=F64)
    elman = tt.cells.Elman.over(leaky.weights(), nonlinearity="sigmoid")
    x = draw(T, B, I)
    grads = []
    for cell in (leaky, elman):
        h, _ = tt.Recurrent(cell)(x)
        grads.append((h, *torch.autograd.grad(per_step(h).sum(), list(leaky.weights().values()))))
    for a, b in zip(*grads, strict=True):
        assert_close(a, b, rtol=1e-13)


def test_without_recurrent_weights_a_leak_keeps_its_own_share_a_step():
    cell = tt.cells.Leaky(I, H, 0.1, dtype=F64)
    torch.nn.init.zeros_(cell.weight_hh)
    layer = tt.Recurrent(cell)
    with tt.trace(layer) as trace:
        loss = layer(draw(30, 1, I))[0][-1].sum()
    flow = trace.flow(loss)["l0"]
    want = flow.total_norms[30] * 0.9 ** torch.arange(30, -1, -1, dtype=F64)[:, None]
    assert_close(flow.total_norms, want, rtol=1e-12)


def test_the_way_back_of_the_min_gru_is_a_product_of_its_gates():
    cell = cell_of("minGRU")
    x = draw(T, B, I)
    layer = tt.Recurrent(cell)
    with tt.trace(layer) as trace:
        loss = layer(x)[0][-1].sum()
    flow = trace.flow(loss)["l0"]
    keep = 1 - torch.sigmoid(x @ cell.weight_ih[:H].T + cell.bias_ih[:H])
    # δ_k is the product of 1 − z over the later steps: a scan, from the end.
    scan = torch.cat((keep.flip(0).cumprod(0).flip(0), torch.ones(1, B, H, dtype=F64)))
    assert_close(flow.adjoint(), scan, rtol=1e-13)
    assert_close(flow.jacobian(3), torch.diag_embed(keep[2]), rtol=1e-14)
    assert (flow.singular_values(3) < 1).all()


def test_an_lstm_without_peepholes_is_the_lstm():
    cell = tt.cells.PeepholeLSTM(I, H, dtype=F64)
    torch.nn.init.zeros_(cell.weight_ch)
    plain = tt.cells.LSTM.over({n: w for n, w in cell.weights().items() if n != "weight_ch"})
    x, s_0 = draw(T, B, I), draw(B, 2 * H)
    shared = list(plain.weights().values())
    grads = []
    for one in (cell, plain):
        h, s_T = tt.Recurrent(one)(x, s_0)
        grads.append((h, s_T, *torch.autograd.grad(per_step(h).sum(), shared)))
    for a, b in zip(*grads, strict=True):
        assert_close(a, b, rtol=1e-13)


def test_the_scale_of_the_matrices_changes_nothing_in_a_layer_normalised_lstm():
    cell = tt.cells.LayerNormLSTM(I, H, eps=0.0, dtype=F64)
    x, s_0 = draw(T, B, I), draw(B, 2 * H)
    found = []
    for _ in range(2):
        start = s_0.clone().requires_grad_()
        h, _ = tt.Recurrent(cell)(x, start)
        found.append((h, torch.autograd.grad(per_step(h).sum(), start)[0]))
        with torch.no_grad():
            cell.weight_hh *= 8
            cell.weight_ih *= 0.25
    for a, b in zip(*found, strict=True):
        assert_close(a, b, rtol=1e-12)


def test_the_first_step_of_a_layer_normalised_lstm_from_zero_has_the_gain_of_epsilon():
    cell = tt.cells.LayerNormLSTM(I, H, eps=1e-4, bias=False, dtype=F64)
    u = draw(1, 4 * H)
    saved = cell.step(u, torch.zeros(1, 2 * H, dtype=F64))[1]
    delta = torch.zeros(1, 1, 2 * H, dtype=F64)
    delta[..., H:] = draw(1, 1, H)
    delta_prev, adjoint = cell.vjp(saved, delta)
    alpha = adjoint[..., 4 * H : 8 * H]
    want = 100 * (alpha - alpha.mean(-1, keepdim=True)) @ cell.weight_hh
    assert_close(delta_prev[..., :H], want, rtol=1e-12)


@pytest.mark.parametrize("alpha", [0, -0.1, 1.1, float("nan")])
def test_a_leak_outside_its_range_is_refused(alpha):
    with pytest.raises(InputValueError, match=r"alpha must lie in \(0, 1\]"):
        tt.cells.Leaky(I, H, alpha)


@pytest.mark.parametrize("name", CELLS)
def test_a_size_below_one_is_refused(name):
    with pytest.raises(InputValueError, match="at least 1"):
        CELLS[name](0, H)
