"""Norms and adjoints of all pairs (t, k) against a backward pass a loss (eq. 3, 9)."""

from __future__ import annotations

import statistics

import pytest
import torch

import throughtime as tt
from oracles.by_hand import F64, as_hx, draw, gradient, layer, put_into, state_width, unrolled
from oracles.models import CASES, LENGTHS, B, I, T, per_step, resets
from throughtime.testing import assert_close

pytestmark = pytest.mark.usefixtures("each_kernel")

OPTIONS = {
    "plain": {},
    "lengths": {"lengths": LENGTHS},
    "resets": {"reset": resets()},
    "both": {"lengths": LENGTHS, "reset": resets()},
}
LAYERS = {
    "tanh": ("tanh", {}),
    "relu, 2 layers": ("relu", {"num_layers": 2}),
    "lstm, 2 layers, both ways": ("lstm", {"num_layers": 2, "bidirectional": True}),
    "projected lstm": ("lstm", {"num_layers": 2, "proj_size": 2}),
    "gru, 2 layers, both ways": ("gru", {"num_layers": 2, "bidirectional": True}),
}
every_layer = pytest.mark.parametrize("name", LAYERS)
every_option = pytest.mark.parametrize("option", OPTIONS)


def made(name: str, option: str):
    """Give the traced losses of a layer, and the oracle's losses and states."""
    kind, more = LAYERS[name]
    module = layer(kind, I, 4, **more)
    x = draw(T, B, I)
    s_0 = draw(len(module.all_weights), B, state_width(module)).requires_grad_()
    with tt.trace(module) as trace:
        losses = per_step(module(x, as_hx(module, s_0), **OPTIONS[option])[0])
    reset, lengths = OPTIONS[option].get("reset"), OPTIONS[option].get("lengths")
    if lengths is not None and reset is not None:
        reset = reset & (torch.arange(T)[:, None] < torch.tensor(lengths))
    output, runs = unrolled(module, x, s_0, lengths, reset)
    return trace, losses, per_step(output), runs


def each_close(got: torch.Tensor, want: torch.Tensor, rtol: float, name: str) -> None:
    """Compare number by number, each relative to its own size; exact zeros must be exact."""
    assert got.shape == want.shape and bool(want.isfinite().all())
    far = ~((got - want).abs() <= rtol * want.abs())
    assert not far.any(), f"{name}: {got[far]} for {want[far]} at {far.nonzero().tolist()}"


@every_option
@every_layer
def test_norms_and_adjoints_are_those_of_one_backward_pass_a_loss(name, option):
    trace, losses, oracle, runs = made(name, option)
    flow = trace.flow(losses)
    states = [s for run in runs.values() for s in run.states]
    wanted = [
        torch.stack(gradient(loss, states)).unflatten(0, (len(runs), T + 1))
        for loss in (*oracle, oracle.sum())
    ]
    for number, layer_name in enumerate(runs):
        one = flow[layer_name]
        assert one.norms.shape == (T, T + 1, B) and one.loss_index.tolist() == list(range(T))
        for v in range(T):
            want = wanted[v][number]
            assert_close(one.adjoint(v), want, rtol=1e-9, name=f"{layer_name}, loss {v}")
            each_close(one.norms[v], want.norm(dim=-1), 1e-9, f"{layer_name}, loss {v}")
        total = wanted[T][number]
        assert_close(one.adjoint(), total, rtol=1e-9)
        assert_close(one.total_norms, total.norm(dim=-1), rtol=1e-9)


@pytest.mark.parametrize("kind", ["tanh", "lstm", "gru"])
def test_norms_are_exactly_zero_after_the_loss_and_not_before(kind):
    module = layer(kind, I, 4, num_layers=2)
    with tt.trace(module) as trace:
        losses = per_step(module(draw(T, B, I))[0])
    for one in trace.flow(losses).values():
        for v in range(T):
            assert torch.count_nonzero(one.norms[v, v + 2 :]) == 0
            assert (one.norms[v, : v + 2] > 0).all()


@every_layer
def test_no_gradient_passes_a_reset_or_leaves_a_loss_on_padding(name):
    trace, losses, _, _ = made(name, "both")
    one = trace.flow(losses)["l0"]
    assert torch.count_nonzero(one.norms[2, :2, 0]) == one.norms[2, 2, 0] * 0
    assert one.norms[2, 3, 0] > 0
    if "both ways" not in name:
        assert torch.count_nonzero(one.norms[1:, 1:, 2]) == 0, "row 2 has a single step"


def test_a_short_rows_final_state_enters_at_its_own_last_step():
    module = layer("gru", I, 4)
    x = draw(T, B, I)
    with tt.trace(module) as trace:
        _, h_n = module(x, lengths=LENGTHS)
        loss = h_n.pow(2).sum()
    one = trace.flow(loss[None])["l0"]
    assert one.enters.tolist() == [LENGTHS]
    for b, n in enumerate(LENGTHS):
        alone, runs = unrolled(module, x[:n, b : b + 1])
        want = torch.stack(gradient(alone[-1].pow(2).sum(), runs["l0"].states))[:, 0]
        assert_close(one.norms[0, : n + 1, b], want.norm(dim=-1))
        assert torch.count_nonzero(one.norms[0, n + 1 :, b]) == 0


@pytest.mark.parametrize("name", ["tanh", "projected lstm", "gru, 2 layers, both ways"])
@pytest.mark.parametrize(("window", "every"), [(2, None), (None, 4), (3, 2), (100, 1), (1, 100)])
def test_window_and_every_give_the_full_flow_where_they_measure_and_nan_elsewhere(
    name, window, every
):
    trace, losses, _, _ = made(name, "lengths")
    full, part = trace.flow(losses), trace.flow(losses, window=window, every=every)
    for layer_name, one in part.items():
        whole = full[layer_name]
        chosen = list(range(T - 1, -1, -(every or 1)))[::-1]
        assert one.loss_index.tolist() == chosen
        assert torch.equal(one.enters, whole.enters[chosen])
        since = whole.enters[chosen][:, None] - (T + 1 if window is None else window)
        there = torch.arange(T + 1)[:, None] >= since
        assert one.norms[~there].isnan().all()
        each_close(one.norms[there], whole.norms[chosen][there], 1e-10, layer_name)
        assert_close(one.adjoint(), whole.adjoint(), rtol=0)
        assert_close(one.adjoint(0), whole.adjoint(0))


@pytest.mark.parametrize("window", [None, 2])
def test_a_scalar_loss_gives_a_row_a_step_and_the_rows_add_up(window):
    module = layer("lstm", I, 4)
    x = draw(T, B, I)
    with tt.trace(module) as trace:
        output = module(x)[0]
        loss = (output[2] * output[5].detach()).sum() + output[5].pow(3).sum()
    flow = trace.flow(loss, window=window)
    one = flow["l0"]
    assert one.norms.shape == (T, T + 1, B)
    assert one.enters.tolist() == [
        [3] * B if v == 2 else [6] * B if v == 5 else [0] * B for v in range(T)
    ]
    assert_close(sum(one.adjoint(v) for v in range(T)), one.adjoint())
    oracle, runs = unrolled(module, x)
    want = (oracle[2] * oracle[5].detach()).sum() + oracle[5].pow(3).sum()
    assert_close(one.adjoint(), torch.stack(gradient(want, runs["l0"].states)))
    if window is None:
        by_row = torch.stack([one.adjoint(v).norm(dim=-1) for v in range(T)])
        assert_close(one.norms, by_row)


def test_a_loss_a_step_later_and_one_on_two_steps_stand_where_they_read_last():
    module = layer("tanh", I, 4)
    with tt.trace(module) as trace:
        output = module(draw(T, B, I))[0]
        losses = torch.stack(((output[0] * output[3]).sum(), output[5].sum(), output[1].sum()))
    one = trace.flow(losses)["l0"]
    assert one.enters.tolist() == [[4] * B, [6] * B, [2] * B]
    assert (one.norms[0, :5] > 0).all() and torch.count_nonzero(one.norms[0, 5:]) == 0


def test_norms_hold_where_their_squares_leave_float32():
    module = put_into("contracting", layer("tanh", 2, 4, dtype=torch.float32))
    x = draw(60, 1, 2, dtype=torch.float32)
    with tt.trace(module) as trace:
        loss = module(x)[0][-1].sum()
    small = trace.flow(loss)["l0"].norms[-1, :, 0]
    wide, runs = unrolled(module.double(), x.double())
    true = torch.stack(gradient(wide[-1].sum(), runs["l0"].states))[:, 0].norm(dim=-1)
    kept = (true > 1e-35) & (true.square() < 1e-46)
    assert kept.sum() > 5, "some norms lie where their squares are 0 in float32"
    for k in kept.nonzero().flatten().tolist():
        assert_close(small[k], true[k].float(), rtol=1e-3, name=f"step {k}")


def test_the_lag_profile_is_the_median_over_losses_and_rows_and_the_horizon_reads_it():
    trace, losses, _, _ = made("tanh", "resets")
    one = trace.flow(losses)["l0"]
    reset = resets()
    by_lag: dict[int, list[float]] = {}
    for v in range(T):
        for b in range(B):
            for lag in range(v + 2):
                k = v + 1 - lag
                if reset[k : v + 1, b].any():
                    continue
                by_lag.setdefault(lag, []).append(
                    float(one.norms[v, k, b] / one.norms[v, v + 1, b])
                )
    profile = one.lag_profile()
    assert len(profile) == max(by_lag) + 1
    for lag, values in by_lag.items():
        want = torch.tensor(statistics.median(values), dtype=F64)
        assert_close(profile[lag], want, name=f"lag {lag}")
    for fraction in (1.0, 0.3, 1e-9):
        reached = [lag for lag in range(len(profile)) if profile[lag] >= fraction]
        assert one.horizon(fraction) == reached[-1]


@pytest.mark.parametrize(("window", "every"), [(1, None), (2, 3)])
@pytest.mark.parametrize("name", ["stacked", "two modules", "translator", "attention", "shared"])
def test_what_a_window_measures_is_exact_in_any_model(name, window, every):
    case = CASES[name]()
    with tt.trace(case.model) as trace:
        losses = case.losses(case.model)
    full, part = trace.flow(losses), trace.flow(losses, window=window, every=every)
    for layer_name, one in part.items():
        measured = ~one.norms.isnan()
        assert measured.any() and not measured.all()
        for row, loss in enumerate(one.loss_index.tolist()):
            for k in range(one.T + 1):
                there = measured[row, k]
                want = full[layer_name].norms[loss, k]
                assert_close(one.norms[row, k][there], want[there], name=f"{layer_name} {loss, k}")
