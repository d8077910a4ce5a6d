"""What each schedule costs against Full: time by interleaved runs, memory by a child's peak.

Run: python benchmarks/bench_schedules.py
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

import throughtime as tt
from throughtime.schedules import Schedule

SCHEDULES = {
    "Full()": tt.Full(),
    "Truncated(100)": tt.Truncated(100),
    "Truncated(100, 50)": tt.Truncated(100, 50),
    "Truncated(100, 10)": tt.Truncated(100, 10),
    "Checkpointed()": tt.Checkpointed(),
    'Checkpointed(memory="4MiB")': tt.Checkpointed(memory="4MiB"),
    'Checkpointed(memory="1MiB")': tt.Checkpointed(memory="1MiB"),
    "tt.stream, window=100": None,
}


def once(layer: tt.LSTM, x: torch.Tensor, schedule: Schedule | None) -> None:
    """Take one gradient of a loss on every step."""
    layer.zero_grad()
    tt.set_through(layer, schedule or tt.Full())
    if schedule is None:
        for part in tt.stream(layer, x, window=100):
            layer(part)[0].pow(2).sum().backward()
        return
    layer(x)[0].pow(2).sum().backward()


def data(T: int, B: int, H: int) -> tuple[tt.LSTM, torch.Tensor]:
    torch.manual_seed(0)
    return tt.LSTM(16, H), torch.randn(T, B, 16)


def resident() -> float:
    """Return this process's peak in MiB; Linux counts it from the program's start."""
    kept = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text(encoding="ascii"))
    assert kept is not None
    return int(kept[1]) / 1024


def peak(name: str, sizes: tuple[int, int, int]) -> float:
    """Return what one gradient adds to a fresh process's peak, in MiB."""
    run = [sys.executable, __file__, "--sizes", *map(str, sizes), "--peak", name]
    return float(subprocess.run(run, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument(
        "--sizes", type=int, nargs=3, default=(5000, 8, 128), metavar=["T", "B", "H"]
    )
    options.add_argument("--rounds", type=int, default=9)
    options.add_argument("--peak", choices=list(SCHEDULES))
    given = options.parse_args()
    torch.set_num_threads(1)
    sizes = tuple(given.sizes)
    layer, x = data(*sizes)
    if given.peak:
        once(layer, x[:200], SCHEDULES[given.peak])
        before = resident()
        once(layer, x, SCHEDULES[given.peak])
        print(resident() - before)
        return
    times: dict[str, list[float]] = {name: [] for name in SCHEDULES}
    for _ in range(given.rounds):
        for name, schedule in SCHEDULES.items():
            began = time.process_time()
            once(layer, x, schedule)
            times[name].append(time.process_time() - began)
    print("T={} B={} H={}, LSTM, float32, one thread; Full() = 1".format(*sizes))
    print(f"{'schedule':30}{'time':>8}{'memory':>8}")
    most = peak("Full()", sizes)
    for name in SCHEDULES:
        ratios = [a / b for a, b in zip(times[name], times["Full()"], strict=True)]
        print(f"{name:30}{statistics.median(ratios):8.2f}{peak(name, sizes) / most:8.2f}")


if __name__ == "__main__":
    main()
