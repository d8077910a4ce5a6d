"""What a step costs beside the compiled sweeps: in a loop of its own, and after something else.

    python benchmarks/bench_overhead.py

"Beside the sweeps" is the time of a step less that of its native calls. "After something else":
between two steps runs one of `torch.nn`'s, which leaves other code in the caches.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from throughtime.bench.calls import PAIRS, calls
from throughtime.kernels.cpu import library as native

SHAPE = (1, 500, 64, 64)  # B, T, I, H

inside = 0.0  # seconds in native calls since the step began
run = native.run_sweep


def timed(sweep, *, back: bool) -> None:
    """Run a native sweep and count its time."""
    global inside
    start = time.perf_counter()
    run(sweep, back=back)
    inside += time.perf_counter() - start


native.run_sweep = timed


def median_us(step: Callable[[], object], before: Callable[[], object], times: int = 200) -> float:
    """Return the median time of a step beside its native calls, in µs."""
    global inside
    seconds = []
    for _ in range(times):
        before()
        inside, start = 0.0, time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start - inside)
    return 1e6 * statistics.median(seconds)


def call_us(layer: nn.Module, x: torch.Tensor) -> float:
    """Return the median time of a call, in µs."""
    return median_us(lambda: layer(x), lambda: None, 2000)


def main() -> None:
    """Print two tables."""
    torch.set_num_threads(2)
    print(f"A training step, {SHAPE}, beside the sweeps, µs")
    print(f"{'':6}{'alone':>8}{'after torch.nn':>16}")
    for name in PAIRS:
        ours, theirs = calls("train", name, SHAPE)
        for warm in (ours, theirs, ours):
            warm()
        print(f"{name:6}{median_us(ours, lambda: None):8.0f}{median_us(ours, theirs):16.0f}")
    few = torch.randn(3, 2, 4)
    print("\nA call without a gradient, T = 3, B = 2, H = 4, in all, µs")
    print(f"{'':6}{'throughtime':>12}{'torch.nn':>10}")
    native.run_sweep = run
    for name, (*pair, _) in PAIRS.items():
        with torch.no_grad():
            times = [call_us(kind(4, 4), few) for kind in pair]
        print(f"{name:6}{times[0]:12.0f}{times[1]:10.0f}")


if __name__ == "__main__":
    main()
