"""What Checkpointed saves against Full at T = 10,000, and a million steps within 1 GiB.

Memory is the peak of a child process (VmHWM) above what it held before, a warm-up done. The
layer's output and the gradient that arrives at it belong to the caller, who has them under every
schedule: "beyond" is what is left without those two. Time is CPU time, the runs interleaved.

Run: python benchmarks/bench_memory.py
"""

from __future__ import annotations

import argparse
import ctypes
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import nn

import throughtime as tt

SCHEDULES = {
    "Full()": tt.Full(),
    "Checkpointed()": tt.Checkpointed(),
    'Checkpointed(memory="16MiB")': tt.Checkpointed(memory="16MiB"),
    'Checkpointed(memory="4MiB")': tt.Checkpointed(memory="4MiB"),
}
T, B, I, H = 10_000, 8, 64, 256
MILLION = 1_000_000
OUTPUT_AND_GRADIENT = 2 * T * B * H * 4 / 2**20


def gradient(layer: tt.LSTM, x: torch.Tensor) -> None:
    """Take one gradient of a loss that is linear in every output, and so needs nothing itself."""
    layer.zero_grad()
    output, _ = layer(x)
    output.backward(torch.ones_like(output))


class Model(nn.Module):
    """What trains on the million steps: an LSTM of 64 units and a readout at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = tt.LSTM(16, 64, through=tt.Checkpointed())
        self.readout = nn.Linear(64, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.readout(self.lstm(x)[0])


def train(model: Model, optimizer: torch.optim.Optimizer, steps: int) -> None:
    """Take one step of training on a sequence of so many."""
    x = torch.randn(steps, 1, 16)
    optimizer.zero_grad()
    loss = nn.functional.mse_loss(model(x), x[..., :1])
    loss.backward()
    optimizer.step()
    assert loss.isfinite() and all(p.grad is not None for p in model.parameters())


def resident(kind: str) -> float:
    """Return what this process holds (VmRSS), or held at its peak (VmHWM), in MiB."""
    kept = re.search(rf"{kind}:\s+(\d+)", Path("/proc/self/status").read_text(encoding="ascii"))
    assert kept is not None
    return int(kept[1]) / 1024


def child(name: str, steps: int) -> None:
    """Print what one gradient adds to this process's peak, its seconds, and the peak itself."""
    bare = resident("VmRSS")
    if name == "million":
        model = Model()
        optimizer = torch.optim.Adam(model.parameters())
        work = lambda steps: train(model, optimizer, steps)  # noqa: E731
    else:
        layer, x = tt.LSTM(I, H, through=SCHEDULES[name]), torch.randn(steps, B, I)
        work = lambda steps: gradient(layer, x[:steps])  # noqa: E731
    work(1000)
    # What the warm-up freed goes back, or the work would find it and seem to need less.
    ctypes.CDLL(None).malloc_trim(0)
    before = bare if name == "million" else resident("VmRSS")
    began = time.process_time()
    work(steps)
    print(resident("VmHWM") - before, time.process_time() - began, resident("VmHWM"))


def measured(name: str) -> list[float]:
    run = [sys.executable, __file__, "--child", name]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    return [float(number) for number in done.stdout.split()]


def ratios(rounds: int) -> dict[str, float]:
    """Return each schedule's time relative to Full's in the same round."""
    layer, x = tt.LSTM(I, H), torch.randn(T, B, I)
    times: dict[str, list[float]] = {name: [] for name in SCHEDULES}
    for _ in range(rounds):
        for name, schedule in SCHEDULES.items():
            tt.set_through(layer, schedule)
            began = time.process_time()
            gradient(layer, x)
            times[name].append(time.process_time() - began)
    full = times["Full()"]
    return {
        name: statistics.median(a / b for a, b in zip(own, full, strict=True))
        for name, own in times.items()
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--child", choices=[*SCHEDULES, "million"])
    options.add_argument("--steps", type=int, help="of the child's sequence")
    given = options.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if given.child:
        child(given.child, given.steps or (MILLION if given.child == "million" else T))
        return
    took = ratios(given.rounds)
    peaks = {name: measured(name)[0] for name in SCHEDULES}
    print(f"T={T} B={B} I={I} H={H}, LSTM, float32, one thread; MiB, and time relative to Full()")
    print(f"{'schedule':30}{'whole':>8}{'beyond':>8}{'saved beyond':>14}{'time':>8}")
    most = peaks["Full()"] - OUTPUT_AND_GRADIENT
    for name, whole in peaks.items():
        beyond = whole - OUTPUT_AND_GRADIENT
        print(f"{name:30}{whole:8.0f}{beyond:8.0f}{1 - beyond / most:14.1%}{took[name]:8.2f}")
    added, seconds, peak = measured("million")
    print(
        f"T={MILLION} B=1 H=64, LSTM and readout, one step of Adam under Checkpointed(): "
        f"{added:.0f} MiB above the process with torch loaded, {peak:.0f} MiB in all, "
        f"{seconds:.0f} s"
    )


if __name__ == "__main__":
    main()
