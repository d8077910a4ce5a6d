"""States of any shape, steps that cannot be batched, and the cheap answers about a rollout."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import throughtime as tt
from throughtime.flow.relay import Relay
from throughtime.testing import assert_close

T, B = 7, 2


@pytest.fixture(autouse=True)
def doubles():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Forecaster(nn.Module):
    """A grid stepped forward by a convolution, with a residual."""

    def __init__(self, cut: int | None = None) -> None:
        super().__init__()
        self.conv, self.cut = nn.Conv2d(3, 3, 3, padding=1), cut

    def step(self, grid: Tensor) -> Tensor:
        return grid + 0.3 * torch.tanh(self.conv(grid))

    def forward(self, grid: Tensor, poke=lambda k, grid: grid) -> Tensor:
        said = []
        for t in range(T):
            grid = tt.mark("grid", self.step(grid))
            grid = poke(t + 1, grid)
            said.append(grid)
            if t + 1 == self.cut:
                grid = grid.detach()
        return torch.stack(said)


def per_step(said: Tensor) -> Tensor:
    return said.pow(2).flatten(1).sum(1)


@pytest.mark.parametrize("cut", [None, 4])
def test_a_grid_is_a_state(cut):
    model, start = Forecaster(cut), torch.randn(B, 3, 4, 5)
    with tt.trace(model) as trace:
        losses = per_step(model(start))
    layer = trace.flow(losses)["grid"]
    zeros: dict[int, Tensor] = {}

    def poke(k: int, grid: Tensor) -> Tensor:
        zeros[k] = torch.zeros_like(grid, requires_grad=True)
        return grid + zeros[k]

    expected = per_step(model(start, poke))
    assert (layer.T, layer.B, layer.S) == (T, B, 60) and layer.cuts == (
        () if cut is None else (cut + 1,)
    )
    for v in (0, 3, T - 1):
        grads = torch.autograd.grad(
            expected[v], list(zeros.values()), retain_graph=True, allow_unused=True
        )
        for k, g in enumerate(grads, 1):
            want = torch.zeros(B, 60) if g is None else g.flatten(1)
            assert_close(layer.adjoint(v)[k], want, rtol=1e-9)
            assert_close(layer.norms[v, k], want.norm(dim=1), rtol=1e-9)


def test_the_cheap_answers_of_a_rollout():
    model, start = Forecaster(), torch.randn(B, 3, 4, 5)
    start[1, 0, 0, 0] = torch.nan
    with tt.trace(model) as trace:
        losses = per_step(model(start))
    layer = trace.flow(losses.sum()[None])["grid"]
    assert layer.norms.shape == (1, T + 1, B)
    bad = layer.first_nonfinite
    assert bad is not None and (bad.direction, bad.step, bad.row) == ("forward", 1, 1)


class Spike(torch.autograd.Function):
    """A surrogate gradient that looks at values, as no batching rule can."""

    @staticmethod
    def forward(ctx, v):
        ctx.save_for_backward(v)
        return (v > 0).to(v)

    @staticmethod
    def backward(ctx, g):  # pyright: ignore
        (v,) = ctx.saved_tensors
        if float(g.abs().max()) == 0:
            return g
        return g / (1 + v.abs()) ** 2


class Neurons(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lift = nn.Linear(3, 4)

    def forward(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        spikes = Spike.apply(v - 0.5)
        return spikes, 0.9 * v * (1 - spikes) + self.lift(x)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = Neurons()

    def forward(self, x: Tensor, poke=lambda k, v: v) -> Tensor:
        v, said = torch.full((B, 4), 0.2), []
        for t, x_t in enumerate(x):
            spikes, v = self.cell(x_t, v)
            v = poke(t + 1, v)
            said.append(spikes + v)
        return torch.stack(said)


def test_a_step_that_cannot_be_batched_goes_one_loss_at_a_time():
    model, x = Network(), torch.randn(T, B, 3)
    with tt.trace(model, steps=[Neurons]) as trace:
        losses = per_step(model(x))
    layer = trace.flow(losses)["cell"]
    zeros: dict[int, Tensor] = {}

    def poke(k: int, v: Tensor) -> Tensor:
        zeros[k] = torch.zeros_like(v, requires_grad=True)
        return v + zeros[k]

    expected = per_step(model(x, poke))
    for v in range(T):
        grads = torch.autograd.grad(
            expected[v], list(zeros.values()), retain_graph=True, allow_unused=True
        )
        for k, g in enumerate(grads, 1):
            want = torch.zeros(B, 4) if g is None else g
            assert_close(layer.norms[v, k], want.norm(dim=1), rtol=1e-9)
    total = sum(layer.weight_grad("lift.weight", loss=v) for v in range(T))
    expected.sum().backward()
    assert_close(total, model.cell.lift.weight.grad, rtol=1e-9)


def test_both_ways_of_taking_many_losses_give_the_same(monkeypatch):
    model, start = Forecaster(), torch.randn(B, 3, 4, 5)
    found = []
    for together in (True, False):

        def choose(self, name, ends, nodes, seeds, together=together):
            if not together:
                return self._one_by_one(ends, nodes, seeds)
            from throughtime.flow.direct import graph_grads

            return list(graph_grads(self.recording, ends, nodes, seeds, cut=True, batched=True))

        monkeypatch.setattr(Relay, "_grads", choose)
        with tt.trace(model) as trace:
            losses = per_step(model(start))
        found.append(trace.flow(losses)["grid"].norms[:, 1:])
    assert_close(found[0], found[1], rtol=1e-12)
