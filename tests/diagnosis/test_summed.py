"""A loss that is a sum over time is told, in each of its spellings; a mean is not."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

import throughtime as tt
from throughtime.flow.summed import summed_over_time

T, B, I, H, K = 24, 4, 3, 8, 5
OUT = {
    "sum of cross entropies": lambda out, y: cross_entropy(
        out.flatten(0, 1), y.flatten(), reduction="sum"
    ),
    "the same over the batch": lambda out, y: (
        cross_entropy(out.flatten(0, 1), y.flatten(), reduction="sum") / B
    ),
    "classes second": lambda out, y: cross_entropy(out.permute(1, 2, 0), y.T, reduction="sum"),
    "one step ahead": lambda out, y: cross_entropy(
        out[:-1].flatten(0, 1), y[1:].flatten(), reduction="sum"
    ),
    "loop": lambda out, y: sum(cross_entropy(o, c) for o, c in zip(out, y, strict=True)),
    "loop from a tensor": lambda out, y: sum(
        (cross_entropy(o, c) for o, c in zip(out, y, strict=True)), torch.zeros(())
    ),
    "loop of sums over rows": lambda out, y: (
        sum(cross_entropy(o, c, reduction="sum") for o, c in zip(out, y, strict=True)) / B
    ),
    "sum": lambda out, y: out.pow(2).sum(),
    "sum over time, mean of rows": lambda out, y: out.pow(2).sum((0, -1)).mean(),
    "mean of rows first": lambda out, y: out.pow(2).mean((1, 2)).sum(),
    "squares": lambda out, y: 0.5 * mse_loss(out, torch.ones_like(out), reduction="sum") / B,
    "with a penalty": lambda out, y: out.pow(2).sum() + 1e-3 * out.pow(4).mean(),
    "stacked": lambda out, y: torch.stack([o.pow(2).mean() for o in out]).sum(),
    "masked": lambda out, y: (out.pow(2).mean(-1) * (y > 0)).sum() / B,
}
MEANS = {
    "mean": lambda out, y: cross_entropy(out.flatten(0, 1), y.flatten()),
    "last": lambda out, y: cross_entropy(out[-1], y[-1]),
    "last, summed over rows": lambda out, y: cross_entropy(out[-1], y[-1], reduction="sum"),
    "sum over the targets": lambda out, y: (out.pow(2).mean(-1) * (y > 0)).sum() / (y > 0).sum(),
    "sum over all numbers": lambda out, y: out.pow(2).sum() / out.numel(),
    "sum over steps and rows": lambda out, y: out.pow(2).sum() / (T * B),
    "loop over its length": lambda out, y: (
        sum(cross_entropy(o, c) for o, c in zip(out, y, strict=True)) / T
    ),
    "features summed": lambda out, y: out.pow(2).sum(-1).mean(),
    "mean length": lambda out, y: (
        sum(cross_entropy(o, c, reduction="sum") for o, c in zip(out, y, strict=True)) / 17.25
    ),
    "two losses of the end": lambda out, y: out[-1].pow(2).sum() + out[-1].pow(4).mean(),
}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.readout = nn.GRU(I, H), nn.Linear(H, K)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.readout(self.rnn(x)[0])


def examined(model: Net, of, steps: int = T):
    x, y = torch.randn(steps, B, I), torch.randint(K, (steps, B))
    with tt.trace(model) as trace:
        loss = of(model(x), y)
    return tt.examine(trace.flow(loss))


@pytest.mark.parametrize("name", OUT)
def test_a_sum_over_time_is_a_note(name):
    found = [one for one in examined(Net(), OUT[name]) if one.code == "loss-summed"]
    assert [one.severity for one in found] == ["note"]
    assert found[0].evidence[0].value in (T, T - 1)


@pytest.mark.parametrize("name", MEANS)
def test_a_mean_is_none(name):
    assert "loss-summed" not in [one.code for one in examined(Net(), MEANS[name])]


def test_in_a_loop_over_a_cell_too():
    cell, readout = nn.LSTMCell(I, H), nn.Linear(H, K)
    model = nn.ModuleList((cell, readout))
    x, y = torch.randn(T, B, I), torch.randint(K, (T, B))
    with tt.trace(model) as trace:
        state, loss = None, 0
        for x_t, y_t in zip(x, y, strict=True):
            state = cell(x_t, state)
            loss += cross_entropy(readout(state[0]), y_t)
    codes = [one.code for one in tt.examine(trace.flow(loss))]
    assert codes[-1] == "loss-summed"


def test_the_remedy_makes_the_gradient_stop_growing_with_the_length():
    model = Net()

    def norm(of, steps: int) -> float:
        torch.manual_seed(1)
        x = torch.randn(steps, B, I)
        y = torch.zeros(steps, B, dtype=torch.long)  # so that the steps' gradients point one way
        weights = list(model.parameters())
        grads = torch.autograd.grad(of(model(x), y), weights)
        return float(torch.cat([g.flatten() for g in grads]).norm())

    summed, mean = OUT["loop"], lambda out, y: OUT["loop"](out, y) / len(out)
    assert norm(summed, 4 * T) > 3 * norm(summed, T)
    assert norm(mean, 4 * T) < 1.3 * norm(mean, T)


def test_nothing_is_said_of_few_steps_or_of_one_loss_per_step():
    assert "loss-summed" not in [one.code for one in examined(Net(), OUT["sum"], steps=6)]
    assert summed_over_time(torch.ones(T, requires_grad=True) * 2, {T}) is None
    assert summed_over_time(torch.ones(()), {T}) is None


def test_a_loop_that_discounts_is_as_deep_as_it_is_long_and_no_harm():
    x, loss = torch.ones(3, requires_grad=True), torch.zeros(())
    for _ in range(3000):
        loss = 0.9 * loss + x.exp().mean()
    assert summed_over_time(loss, {3000}) is None


@pytest.mark.parametrize("name", ["Sum", "Mean"])
def test_a_function_of_ones_own_may_have_the_name_of_torchs(name):
    own = type(
        name,
        (torch.autograd.Function,),
        {
            "forward": staticmethod(lambda ctx, x: x.sum()),
            "backward": staticmethod(lambda ctx, g: g.expand(T, B)),
        },
    )
    assert summed_over_time(own.apply(torch.ones(T, B, requires_grad=True)), {T}) is None
