"""What a truncation leaves out of eq. 5, and a flow that is exact whatever the schedule."""

import pytest
import torch

import throughtime as tt
from throughtime.report.report import report_html
from throughtime.testing import assert_close

F64 = torch.float64
T, B, I, H = 9, 2, 3, 4


def layer(kind, **options):
    torch.manual_seed(0)
    return getattr(tt, kind)(I, H, dtype=F64, **options)


def traced(model, x, **arguments):
    with tt.trace(model) as trace:
        losses = model(x, **arguments)[0].pow(2).sum((1, 2))
    return trace.flow(losses), losses


def data():
    torch.manual_seed(1)
    x = torch.randn(T, B, I, dtype=F64)
    return x, torch.rand(T, B) > 0.85


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("window, every", [(1, None), (3, None), (4, 1), (5, 2), (8, 8)])
@pytest.mark.parametrize("masks", [False, True])
def test_what_is_dropped_is_the_sum_of_the_terms_beyond_the_reach(kind, window, every, masks):
    x, reset = data()
    arguments = {"reset": reset, "lengths": [T, T - 2]} if masks else {}
    schedule = tt.Truncated(window, every)
    flow = traced(layer(kind), x, **arguments)[0]["l0"]
    reach = {t: first for first, begin, end in schedule.blocks(T) for t in range(begin, end + 1)}
    got = flow.dropped(schedule)
    assert set(got) == set(flow.weight_names)
    for name in flow.weight_names:
        beyond = torch.zeros_like(flow.weight_grad(name))
        for t in range(1, T + 1):
            for k in range(1, reach[t]):
                beyond += flow.weight_grad(name, loss=t - 1, step=k)
        want = beyond.norm() / flow.weight_grad(name).norm()
        assert got[name] > 0
        assert_close(torch.tensor(got[name], dtype=F64), want, rtol=1e-10, name=name)


def test_what_is_kept_and_what_is_dropped_make_the_whole():
    x, _ = data()
    model = layer("LSTM", through=tt.Truncated(4))
    flow, losses = traced(model, x)
    losses.sum().backward()
    missing = flow["l0"].weight_grad("weight_hh") - model.weight_hh_l0.grad
    share = missing.norm() / flow["l0"].weight_grad("weight_hh").norm()
    got = flow["l0"].dropped(flow["l0"].through)["weight_hh"]
    assert_close(torch.tensor(got, dtype=F64), share, rtol=1e-10)


def test_a_share_far_below_rounding_is_not_lost_in_a_difference():
    model = tt.RNN(1, 1, nonlinearity="identity", bias=False, dtype=F64)
    with torch.no_grad():
        model.weight_hh_l0.fill_(1e-3)
        model.weight_ih_l0.fill_(1.0)
    x = torch.zeros(10, 1, 1, dtype=F64)
    x[0] = 1
    with tt.trace(model) as trace:
        losses = model(x)[0].sum((1, 2))[-1:]
    # E = w^9: nine equal terms w^8 in dE/dw, the steps 2 to 10; the window of 3 keeps three.
    flow = trace.flow(losses)["l0"]
    assert abs(flow.dropped(tt.Truncated(3, 1))["weight_hh"] - 6 / 9) < 1e-12
    # And in dE/dW_x the one term is that of step 1.
    assert flow.dropped(tt.Truncated(3, 1))["weight_ih"] == 1.0


@pytest.mark.parametrize("schedule", [tt.Full(), tt.Checkpointed(every=2), tt.Truncated(T)])
def test_nothing_is_dropped_by_an_exact_schedule(schedule):
    flow = traced(layer("GRU"), data()[0])[0]["l0"]
    assert set(flow.dropped(schedule).values()) == {0.0}
    with pytest.raises(tt.errors.InputTypeError, match="schedule"):
        flow.dropped(3)


def test_a_flow_is_exact_and_grad_truncated_whatever_is_watched():
    x, _ = data()
    full = layer("GRU", num_layers=2)
    want, losses = traced(full, x)
    losses.sum().backward()
    cut = layer("GRU", num_layers=2, through=tt.Truncated(3))
    cut(x)[0].pow(2).sum().backward()
    unwatched = [p.grad.clone() for p in cut.parameters()]
    cut.zero_grad()
    flow, losses = traced(cut, x)
    losses.sum().backward()
    for name in ("l0", "l1"):
        for weight in flow[name].weight_names:
            got = flow[name].weight_grad(weight)
            assert_close(got, want[name].weight_grad(weight), rtol=1e-11)
            summed = sum(flow[name].weight_grad(weight, loss=t) for t in range(T))
            assert_close(summed, got, rtol=1e-11)
            assert_close(got, getattr(full, f"{weight}_{name}").grad, rtol=1e-11)
    for p, grad in zip(cut.parameters(), unwatched, strict=True):
        assert_close(p.grad, grad, rtol=1e-12)


def test_the_report_says_that_training_is_biased_and_by_how_much():
    x, _ = data()
    html = report_html(traced(layer("GRU", through=tt.Truncated(3)), x)[0])
    assert "Truncated(window=3, every=None), whose gradient is biased" in html
    assert "biased" not in report_html(traced(layer("GRU"), x)[0], brief=True)
