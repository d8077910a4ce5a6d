"""minGRU by one scan against the same cell step by step: time by interleaved runs.

Run: python benchmarks/bench_scan.py
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

import throughtime as tt

SIZES = ((200, 32, 64), (500, 8, 128), (1000, 1, 64), (5000, 8, 64), (500, 32, 256))


def once(layer: tt.Recurrent, x: torch.Tensor, kernels: str) -> float:
    layer.zero_grad()
    with tt.kernels.use(kernels):
        began = time.process_time()
        layer(x)[0].pow(2).mean().backward()
        return time.process_time() - began


def all_pairs(layer: tt.Recurrent, x: torch.Tensor, kernels: str) -> float:
    """Take the norms of all pairs of loss and step: V = T losses in one sweep."""
    with tt.kernels.use(kernels):
        with tt.trace(layer) as trace:
            losses = layer(x)[0].pow(2).mean((1, 2))
        began = time.process_time()
        trace.flow(losses)
        return time.process_time() - began


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=7)
    rounds = options.parse_args().rounds
    torch.set_num_threads(1)
    print("forward and backward, float32, one thread; step by step = 1")
    print(f"{'':10}{'sizes':22}{'least':>8}{'median':>8}")
    cases = [("gradient", once, sizes) for sizes in SIZES]
    cases.append(("all pairs", all_pairs, (100, 8, 64)))
    for what, run, (T, B, H) in cases:
        torch.manual_seed(0)
        layer, x = tt.Recurrent(tt.cells.MinGRU(16, H)), torch.randn(T, B, 16)
        run(layer, x, "auto")
        ratios = [run(layer, x, "auto") / run(layer, x, "reference") for _ in range(rounds)]
        label = f"T={T} B={B} H={H}"
        print(f"{what:10}{label:22}{min(ratios):8.2f}{statistics.median(ratios):8.2f}")


if __name__ == "__main__":
    main()
