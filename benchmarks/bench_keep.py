"""What it costs to keep the last step of a training, so that a broken one can be taken again.

One training step of an LSTM, with a keeper and without, in turns: steps are interleaved, so that
whatever else the machine does hits both. Prints CPU time (on a GPU the time on the clock): of each
the tenth percentile, which a busy machine moves least, and the share that the keeper adds to it.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/bench_keep.py
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from statistics import quantiles

import torch
from torch import nn

from throughtime.watch import Keeper

CASES = {  # rows, steps, inputs, hidden units
    "small": (8, 20, 8, 32),
    "usual": (32, 100, 64, 128),
    "wide": (16, 50, 256, 512),
}


class Model(nn.Module):
    """An LSTM and a readout."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.rnn, self.read = nn.LSTM(inputs, hidden), nn.Linear(hidden, inputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.read(self.rnn(x)[0])


class Training:
    """A training, watched or not; `step` returns how long it took."""

    def __init__(self, case: str, every: int | None, give: bool, device: str) -> None:
        B, T, I, H = CASES[case]
        torch.manual_seed(0)
        self.model = Model(I, H).to(device)
        self.x = torch.randn(T, B, I, device=device)
        self.optimizer = torch.optim.Adam(self.model.parameters())
        self.device, self.give = device, give
        folder = tempfile.mkdtemp()
        self.keeper = None if every is None else Keeper(self.model, folder, every=every)

    def step(self) -> float:
        clock = time.perf_counter if self.device == "cuda" else time.process_time
        started = clock()
        if self.keeper is not None:
            self.keeper.before()
        loss = (self.model(self.x) - self.x).pow(2).mean()
        if self.keeper is not None:
            self.keeper.after(loss, (self.x,) if self.give else None)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if self.device == "cuda":
            torch.cuda.synchronize()
        return clock() - started


def measured(case: str, seconds: float, device: str) -> dict[str, float]:
    """Return the tenth percentiles in ms, and what share each keeper adds."""
    trainings = {
        "without": Training(case, None, False, device),
        "every step": Training(case, 1, True, device),
        "every 100th": Training(case, 100, False, device),
    }
    for training in trainings.values():
        for _ in range(3):
            training.step()
    taken: dict[str, list[float]] = {name: [] for name in trainings}
    end, turn = time.perf_counter() + seconds, 0
    while time.perf_counter() < end:
        names = list(trainings)
        turn += 1
        for name in names[turn % 3 :] + names[: turn % 3]:
            taken[name].append(trainings[name].step())
    low = {name: 1000 * quantiles(times, n=10)[0] for name, times in taken.items()}
    found = {name: round(value, 3) for name, value in low.items()}
    for name in list(trainings)[1:]:
        share = low[name] / low["without"] - 1
        found[f"added by {name}, %"] = round(100 * share, 2)
    return {"steps": turn, **found}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    for name in CASES:
        print(json.dumps({"case": name, **measured(name, given.seconds, given.device)}), flush=True)
