"""A small training that is the same each time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import torch
from torch import Tensor, nn

import throughtime as tt

__all__ = ["B", "H", "I", "Model", "T", "batches", "train"]

T, B, I, H = 30, 4, 3, 12


class Model(nn.Module):
    """Two layers with a dropout between them, and a readout at every step, or at the last alone."""

    def __init__(self, rnn: nn.Module | None = None, last: bool = False) -> None:
        super().__init__()
        self.last = last
        self.rnn = nn.LSTM(I, H, 2, dropout=0.3) if rnn is None else rnn
        self.out = nn.Linear(H, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.rnn(x)[0]
        return self.out(h[-1] if self.last else h)


def batches(count: int) -> Iterator[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(1)
    for _ in range(count):
        yield torch.randn(T, B, I, generator=draw), torch.randn(T, B, 1, generator=draw)


def train(model: nn.Module, monitor: tt.Monitor | None, steps: int, skip: int = 0) -> list[Tensor]:
    """Train, and return each loss, the weights and the random state at the end."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    found = []
    for number, (x, y) in enumerate(batches(steps)):
        if number < skip:
            continue
        with monitor or nullcontext():
            out = model(x)
            loss = (out - (y if out.dim() == 3 else y[-1])).pow(2).mean()
        if monitor is not None:
            monitor.record(loss)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.detach())
    return [*found, *(p.detach() for p in model.parameters()), torch.get_rng_state()]
