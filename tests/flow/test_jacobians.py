"""Identities of the Jacobians: transposes, bounds, exponents (eq. 4, 6, 7, 8, 9)."""

from __future__ import annotations

import math

import pytest
import torch

import throughtime as tt
from oracles.by_hand import F64, KINDS, REGIMES, draw, layer, put_into
from oracles.models import LENGTHS, B, I, T, per_step, resets
from throughtime.errors import UnsupportedError
from throughtime.testing import assert_close

every_kind = pytest.mark.parametrize("kind", KINDS)
every_regime = pytest.mark.parametrize("regime", REGIMES)


def flow_of(module, T=T, B=B, **options):
    """Give the flow of a module's own output, a loss a step."""
    with tt.trace(module) as trace:
        losses = per_step(module(draw(T, B, module.input_size), **options)[0])
    return trace.flow(losses)


@every_regime
@every_kind
def test_the_way_back_is_the_transpose_of_the_way_forward(kind, regime):
    flow = flow_of(put_into(regime, layer(kind, I, 4)))["l0"]
    J = flow.jacobian(3)
    u, v = draw(B, flow.S, seed=1), draw(1, B, flow.S, seed=2)
    back, _ = flow.cell.vjp(flow.tape.at(3), v)
    forth = torch.einsum("bij,bj->bi", J, u)
    assert_close((forth * v[0]).sum(1), (u * back[0]).sum(1), rtol=1e-12, name="⟨Ju, v⟩")
    small = 1e-6
    moved = [
        flow.cell.step(flow.cell.drive(flow.tape.x)[2], flow.tape.s[2] + sign * small * u)[0]
        for sign in (1, -1)
    ]
    if kind != "relu":
        assert_close(
            forth, (moved[0] - moved[1]) / (2 * small), rtol=1e-5, name="Ju by differences"
        )


@every_regime
@pytest.mark.parametrize("option", ["plain", "ragged", "resets", "both"])
@every_kind
def test_every_bound_is_at_least_what_it_bounds(kind, option, regime):
    options = {}
    if option in ("ragged", "both"):
        options["lengths"] = LENGTHS
    if option in ("resets", "both"):
        options["reset"] = resets()
    flow = flow_of(put_into(regime, layer(kind, I, 4)), **options)["l0"]
    slack, tights = 1 + 1e-9, {}
    for since in range(T + 1):
        for to in range(since, T + 1):
            product = flow.jacobian_product(to, since)
            true = torch.linalg.matrix_norm(product, 2)
            tight = tights[to, since] = flow.bound(to, since, tight=True)
            assert (true <= tight * slack).all(), f"tight, {to} from {since}"
            if kind in ("lstm", "gru"):
                continue
            wide = flow.bound(to, since)
            assert (tight <= wide * slack).all(), f"plain, {to} from {since}"
    for v in range(T):
        for k in range(v + 1):
            reached = flow.norms[v, v + 1] * tights[v + 1, k]
            assert (flow.norms[v, k] <= reached * slack).all(), f"norms[{v}, {k}]"


def test_the_bound_of_eq_7_is_the_gain_to_the_power_of_the_lag():
    flow = flow_of(layer("sigmoid", I, 4))["l0"]
    gain = float(torch.linalg.matrix_norm(flow.cell.weight_hh, 2)) / 4
    assert_close(flow.bound(5, 2), torch.full((B,), gain**3, dtype=F64))
    assert_close(flow.bound(4, 4), torch.ones(B, dtype=F64), rtol=0)
    assert flow.cell.gain() == pytest.approx((4 * gain, 0.25))


@pytest.mark.parametrize(("kind", "most"), [("tanh", 1), ("relu", 1), ("sigmoid", 0.25)])
def test_the_slope_of_each_nonlinearity_stays_below_its_bound_and_reaches_it(kind, most):
    cell = tt.cells.Elman(1, 1, kind, dtype=F64)
    a = torch.linspace(-20, 20, 4001, dtype=F64)[:, None]
    with torch.no_grad():
        cell.weight_hh.fill_(1)
        _, saved = cell.step(a, torch.zeros_like(a))
        slope = cell.vjp(saved, torch.ones(1, *a.shape, dtype=F64))[0]
    assert slope.max() <= most == cell.gain()[1]
    assert slope.max() == pytest.approx(most, abs=1e-6)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_a_cell_without_beta_says_so_and_names_the_tight_bound(kind):
    flow = flow_of(layer(kind, I, 4))["l0"]
    with pytest.raises(UnsupportedError, match="tight=True"):
        flow.bound(3, 1)
    assert (flow.bound(3, 1, tight=True) > 0).all()


@pytest.mark.parametrize("regime", ["contracting", "orthogonal", "exploding"])
@pytest.mark.parametrize("kind", ["tanh", "sigmoid", "identity", "lstm", "gru"])
def test_the_exponents_sum_to_the_mean_log_determinant(kind, regime):
    module = put_into(regime, layer(kind, I, 3))
    with torch.no_grad():
        module.weight_hh_l0.mul_(0.9)  # so that the sum is not 0 for an orthogonal identity
    flow = flow_of(module, T=20)["l0"]
    logs = torch.stack([torch.linalg.slogdet(flow.jacobian(t))[1] for t in range(1, 21)])
    exponents = flow.lyapunov()
    assert exponents.shape == (B, flow.S)
    assert (exponents.diff(dim=1) <= 0).all()
    assert_close(exponents.sum(1), logs.mean(0), rtol=1e-9)
    assert_close(flow.lyapunov(since=5).sum(1), logs[5:].mean(0), rtol=1e-9)


def test_the_exponents_sum_over_the_steps_that_each_row_takes():
    flow = flow_of(layer("gru", I, 3), lengths=LENGTHS, reset=resets())["l0"]
    for b, n in enumerate(LENGTHS):
        steps = [t for t in range(1, n + 1) if not resets()[t - 1, b]]
        logs = [torch.linalg.slogdet(flow.jacobian(t)[b])[1] for t in steps]
        if logs:
            assert_close(flow.lyapunov()[b].sum(), torch.stack(logs).mean(), rtol=1e-9)


def test_the_exponents_of_a_constant_linear_recurrence_are_logs_of_its_eigenvalues():
    module = layer("identity", 2, 4)
    values = torch.tensor([1.3, 0.9, 0.5, 0.2], dtype=F64)
    basis = draw(4, 4)
    with torch.no_grad():
        module.weight_hh_l0.copy_(basis @ values.diag() @ torch.linalg.inv(basis))
    flow = flow_of(module, T=400, B=1)["l0"]
    assert (flow.lyapunov(since=0)[0] - values.log()).abs().max() < 0.02
    assert (flow.lyapunov(n=2)[0] - values[:2].log()).abs().max() < 0.02


def test_the_exponents_of_a_normal_linear_recurrence_are_exact_at_any_length():
    module = layer("identity", 2, 4)
    turn, _ = torch.linalg.qr(draw(4, 4))
    with torch.no_grad():
        module.weight_hh_l0.copy_(0.7 * turn)
    for length in (1, 2, 9):
        flow = flow_of(module, T=length, B=2)["l0"]
        assert_close(flow.lyapunov(), torch.full((2, 4), math.log(0.7), dtype=F64))
        assert_close(flow.lyapunov(2), torch.full((2, 2), math.log(0.7), dtype=F64))


def test_powers_of_w_are_the_products_of_a_linear_recurrence():
    module = layer("identity", 2, 4)
    flow = flow_of(module, T=9)["l0"]
    W = module.weight_hh_l0.detach()
    for to, since in ((9, 0), (5, 2), (3, 3)):
        power = torch.linalg.matrix_power(W, to - since).expand(B, 4, 4)
        assert_close(flow.jacobian_product(to, since), power, name=f"{to} from {since}")


def test_resets_make_a_zero_jacobian_and_steps_not_taken_the_identity():
    flow = flow_of(layer("lstm", I, 3), lengths=LENGTHS, reset=resets())["l0"]
    eye = torch.eye(6, dtype=F64)
    for t in range(1, T + 1):
        J = flow.jacobian(t)
        for b, n in enumerate(LENGTHS):
            if t > n:
                assert_close(J[b], eye, rtol=0, name=f"J_{t} of row {b}")
            elif resets()[t - 1, b]:
                assert_close(J[b], torch.zeros_like(eye), name=f"J_{t} of row {b}")
            else:
                assert J[b].norm() > 0
