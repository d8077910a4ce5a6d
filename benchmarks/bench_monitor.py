"""What a monitor costs a training: `tt.Monitor` with its defaults, at one step of a hundred.

    python benchmarks/bench_monitor.py [--threads 1] [--cpu]

A step of training with a loss at every time step, B = 32, T = 100, I = 32, H = 128, Adam, is timed
in turns: plain; in a block that is not measured; and measured, written as a line of JSON. Of each
the median counts. The share is (measured + 99 of the others) / (100 plain) − 1. The last column is
what `trace.flow(losses)` would take at every hundredth step. ``--cpu`` counts the process's own
seconds, for a machine that is not quiet.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import throughtime as tt

B, T, I, H = 32, 100, 32, 128
EVERY = 100
TURNS = 11

clock = time.perf_counter


class Model(nn.Module):
    """A recurrent layer and a readout at every step."""

    def __init__(self, kind: Callable[..., nn.Module], layers: int) -> None:
        super().__init__()
        self.rnn, self.out = kind(I, H, layers), nn.Linear(H, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.rnn(x)[0])


class Training:
    """One model in training, whose steps are timed."""

    def __init__(self, kind: Callable[..., nn.Module], layers: int, path: Path) -> None:
        torch.manual_seed(0)
        self.model = Model(kind, layers)
        self.x, self.y = torch.randn(T, B, I), torch.randn(T, B, 1)
        self.optimizer = torch.optim.Adam(self.model.parameters())
        self.monitor = tt.Monitor(self.model, every=EVERY, to=path, lag=50)

    def loss(self) -> torch.Tensor:
        return (self.model(self.x) - self.y).pow(2).mean((1, 2)).sum()

    def update(self, loss: torch.Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def plain(self) -> None:
        self.update(self.loss())

    def watched(self, step: int) -> None:
        self.monitor.step = step
        with self.monitor:
            loss = self.loss()
        self.monitor.record(loss)
        self.update(loss)

    def whole(self) -> None:
        with tt.trace(self.model) as trace:
            losses = (self.model(self.x) - self.y).pow(2).mean((1, 2))
        trace.flow(losses)
        self.update(losses.sum())


def seconds(step: Callable[[], object]) -> float:
    """Return how long a call takes."""
    start = clock()
    step()
    return clock() - start


def row(kind: Callable[..., nn.Module], name: str, layers: int, path: Path) -> None:
    """Print one line of the table."""
    training = Training(kind, layers, path)
    taken: dict[str, list[float]] = {"plain": [], "between": [], "measured": [], "whole": []}
    for turn in range(TURNS + 1):
        at = turn * EVERY
        found = {
            "plain": seconds(training.plain),
            "measured": seconds(lambda at=at: training.watched(at)),
            "between": seconds(lambda at=at: training.watched(at + 1)),
        }
        if turn < 3:
            found["whole"] = seconds(training.whole)
        for what, value in found.items():
            if turn:  # the first of each is not counted
                taken[what].append(value)
    ms = {what: 1e3 * statistics.median(values) for what, values in taken.items()}
    assert len(training.monitor.history) == TURNS + 1
    share = (ms["measured"] + (EVERY - 1) * ms["plain"]) / (EVERY * ms["plain"]) - 1
    block = ms["between"] - ms["plain"]
    whole = (ms["whole"] / ms["plain"] - 1) / EVERY
    print(
        f"{name:16}{ms['plain']:9.1f}{block:+9.2f}{ms['measured']:10.1f}"
        f"{100 * share:9.2f} %{100 * whole:9.1f} %"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cpu", action="store_true")
    arguments = parser.parse_args()
    global clock
    clock = time.process_time if arguments.cpu else time.perf_counter
    torch.set_num_threads(arguments.threads)
    print(f"B = {B}, T = {T}, I = {I}, H = {H}, {arguments.threads} thread(s), ms a step\n")
    print(f"{'':16}{'plain':>9}{'between':>9}{'measured':>10}{'share':>11}{'all losses':>11}")
    with tempfile.TemporaryDirectory() as folder:
        for kinds in (nn, tt):
            for name in ("RNN", "LSTM", "GRU"):
                for layers in (1, 2):
                    called = f"{'nn' if kinds is nn else 'tt'}.{name}, {layers}"
                    row(getattr(kinds, name), called, layers, Path(folder) / f"{called}.jsonl")


if __name__ == "__main__":
    main()
