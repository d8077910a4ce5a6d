"""Loops drawn at random: what lies between two steps is another thing at each of them."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn

import throughtime as tt
from throughtime.testing import assert_close

from .loops import B, H, I, Loop, Poke, untouched

SEEDS = range(24)


class Drawn(Loop):
    """Two cells in one loop, or a fused layer and a cell; feedback, masks, cuts, attention."""

    poke: Poke = staticmethod(untouched)

    def __init__(self, seed: int) -> None:
        draw = random.Random(seed)
        self.kind = draw.choice([nn.LSTMCell, nn.GRUCell, nn.RNNCell])
        super().__init__()
        self.upper = draw.choice([nn.GRUCell(H, H), nn.GRU(H, H), None])
        self.plan = [
            draw.choice(["on", "on", "on", "mask", "damp", "hear", "look", "cut", "top"])
            for _ in range(draw.randint(1, 9))
        ]
        if draw.random() < 0.4:
            self.plan = ["mask" if what == "mask" else "on" for what in self.plan]

    def forward(self, x: Tensor) -> Tensor:
        state, top, said, seen = self.poke(0, *self.begin()), torch.zeros(B, H), [], []
        for t, what in enumerate(self.plan):
            x_t = x[t]
            if what == "hear" and said:
                x_t = x_t + torch.tanh(said[-1])
            if what == "look" and seen:
                x_t = x_t + torch.stack(seen).mean(0)[:, :I]
            if what == "top":
                x_t = x_t + top[:, :I]
            state = self.poke(t + 1, *self.step(x_t, state))
            seen.append(state[0])
            if isinstance(self.upper, nn.GRU):
                top = self.upper(state[0][None], top[None])[0][0]
            elif self.upper is not None:
                top = self.upper(state[0], top)
            said.append(self.out(state[0] + top))
            if what == "mask":
                state = tuple(part * torch.tensor([[1.0], [0.0], [1.0]]) for part in state)
            if what == "damp":
                state = tuple(0.8 * part for part in state)
            if what == "cut":
                state = tuple(part.detach() for part in state)
        return torch.stack(said)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_loop_drawn_at_random_is_what_autograd_says(seed):
    torch.manual_seed(seed)
    torch.set_default_dtype(torch.float64)
    try:
        _check(seed)
    finally:
        torch.set_default_dtype(torch.float32)


def _check(seed: int) -> None:
    from .loops import oracle

    model = Drawn(seed)
    x = torch.randn(len(model.plan), B, I)
    many = seed % 3 == 0

    def losses(said: Tensor) -> Tensor:
        each = (said - 0.3).pow(2).sum((1, 2))
        return each.cumsum(0) if many else each  # several losses enter at one step, or one does

    expected, _ = oracle(model, x, losses)
    with tt.trace(model) as trace:
        found = losses(model(x))
    flow = trace.flow(found)
    layer = flow["cell"]
    assert len(model.plan) == layer.T and not any("@" in name for name in flow)
    for v in range(len(found)):
        for k in range(layer.T + 1):
            assert_close(
                layer.adjoint(v)[k], expected[v, k], rtol=1e-8, name=f"{model.plan} {v} {k}"
            )
            assert_close(layer.norms[v, k], expected[v, k].norm(dim=-1), rtol=1e-8)
    found.sum().backward()
    again = found.new_zeros(())
    for name, weight in model.cell.named_parameters():
        with tt.trace(model) as trace:
            again = losses(model(x))
        assert_close(trace.flow(again)["cell"].weight_grad(name), weight.grad, rtol=1e-8)
        break
