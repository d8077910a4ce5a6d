"""`tt.cells.Function` against a hand-written loop of autograd: time interleaved, memory by a child.

Run: python benchmarks/bench_function.py
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import throughtime as tt

I = 16
SIZES = {
    "T=5 B=16 H=64": (5, 16, 64),
    "T=20 B=16 H=64": (20, 16, 64),
    "T=50 B=16 H=64": (50, 16, 64),
    "T=200 B=32 H=64": (200, 32, 64),
    "T=500 B=8 H=128": (500, 8, 128),
}


def leaky(x: Tensor, s: Tensor, W: Tensor, U: Tensor, b: Tensor) -> Tensor:
    return 0.8 * s + 0.2 * torch.tanh(torch.nn.functional.linear(x, U, b) + s @ W.T)


def gated(x: Tensor, s: Tensor, W: Tensor, U: Tensor, b: Tensor) -> Tensor:
    """Minimal gated unit (Zhou et al. 2016)."""
    f, n = torch.nn.functional.linear(x, U, b).chunk(2, 1)
    W_f, W_n = W.chunk(2)
    f = torch.sigmoid(f + s @ W_f.T)
    return s + f * (torch.tanh(n + (f * s) @ W_n.T) - s)


def oscillators(x: Tensor, s: Tensor, W: Tensor, U: Tensor, b: Tensor) -> Tensor:
    """Coupled oscillators (Rusch and Mishra 2021): positions y stand before velocities z."""
    y, z = s.chunk(2, 1)
    force = torch.tanh(s @ W.T + torch.nn.functional.linear(x, U, b))
    z = z + 0.05 * (force - 2.7 * y - 4.7 * z)
    return torch.cat((y + 0.05 * z, z), 1)


def batch_norm(x: Tensor, s: Tensor, W: Tensor, U: Tensor, b: Tensor) -> Tensor:
    """A step whose rows depend on each other, which no block of steps can take at once."""
    a = torch.nn.functional.linear(x, U, b) + s @ W.T
    return torch.tanh(torch.nn.functional.batch_norm(a, None, None, training=True))


def deep(x: Tensor, s: Tensor, W: Tensor, U: Tensor, b: Tensor) -> Tensor:
    """A step of some twenty operations: normalized, gated, with a residual path."""
    a = torch.nn.functional.linear(x, U, b) + torch.nn.functional.layer_norm(s, s.shape[1:]) @ W.T
    i, f, g = a.chunk(3, 1)
    g = torch.nn.functional.gelu(g) - 0.1 * torch.sin(g)
    s = torch.sigmoid(f) * s + torch.sigmoid(i) * torch.tanh(g)
    return s + 0.1 * torch.nn.functional.softplus(s) * torch.exp(-s * s)


# The step, how wide W and U are in H, and how wide the state is.
STEPS: dict[str, tuple[Callable[..., Tensor], int, int]] = {
    "leaky tanh": (leaky, 1, 1),
    "gated": (gated, 2, 1),
    "oscillators": (oscillators, 1, 2),
    "deep": (deep, 3, 1),
    "batch norm": (batch_norm, 1, 1),
}


def data(name: str, sizes: tuple[int, int, int]) -> tuple[tt.Recurrent, Tensor]:
    torch.manual_seed(0)
    step, wide, parts = STEPS[name]
    T, B, H = sizes
    weights = {
        "W": torch.randn(wide * H, parts * H) / (parts * H) ** 0.5,
        "U": torch.randn(wide * H, I) / I**0.5,
        "b": torch.zeros(wide * H),
    }
    cell = tt.cells.Function(step, I, H, parts * H, weights=weights)
    return tt.Recurrent(cell), torch.randn(T, B, I)


def by_layer(layer: tt.Recurrent, x: Tensor, at_end: bool = False) -> None:
    layer.zero_grad()
    h, s_T = layer(x)
    (s_T if at_end else h).pow(2).mean().backward()


def by_hand(layer: tt.Recurrent, x: Tensor, at_end: bool = False) -> None:
    """What a user writes: a loop, a list, a stack."""
    layer.zero_grad()
    step, weights = layer.cell.step_function, layer.cell.weights()
    H, s, h = layer.cell.hidden_size, x.new_zeros(x.shape[1], layer.cell.state_size), []
    for x_t in x:
        s = step(x_t, s, **weights)
        h.append(s[:, :H])
    (s if at_end else torch.stack(h)).pow(2).mean().backward()


WAYS = {"layer": by_layer, "by hand": by_hand}


def ratios(name: str, sizes: tuple[int, int, int], rounds: int) -> list[float]:
    """Return the layer's time over the loop's, of runs that take turns."""
    layer, x = data(name, sizes)
    found = []
    for round_ in range(rounds + 1):
        times = {}
        for way, run in WAYS.items():
            began = time.process_time()
            run(layer, x)
            times[way] = time.process_time() - began
        if round_:  # the first one only warms up
            found.append(times["layer"] / times["by hand"])
    return found


def resident() -> float:
    """Return this process's peak in MiB; Linux counts it from the program's start."""
    kept = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text(encoding="ascii"))
    assert kept is not None
    return int(kept[1]) / 1024


def peak(name: str, way: str, T: int) -> float:
    """Return what one gradient adds to a fresh process's peak, in MiB."""
    run = [sys.executable, __file__, "--peak", name, way, str(T)]
    return float(subprocess.run(run, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=9)
    options.add_argument("--steps", nargs="*", default=list(STEPS))
    options.add_argument("--peak", nargs=3, metavar=("STEP", "WAY", "T"))
    given = options.parse_args()
    torch.set_num_threads(1)
    if given.peak:
        name, way, T = given.peak
        layer, x = data(name, (int(T), 32, 64))
        WAYS[way](layer, x[:50], at_end=True)
        before = resident()
        WAYS[way](layer, x, at_end=True)
        print(resident() - before)
        return
    print("forward and backward, float32, one thread; the loop written by hand = 1")
    print(f"{'step':14}{'sizes':18}{'least':>8}{'median':>8}   runs by")
    for name in given.steps:
        for label, sizes in SIZES.items():
            found = ratios(name, sizes, given.rounds)
            chosen = tt.kernels.last_choice()
            print(
                f"{name:14}{label:18}{min(found):8.2f}{statistics.median(found):8.2f}   "
                f"{chosen.name if chosen else ''}"
            )
    print("\npeak memory of one gradient in MiB, B=32 H=64, a loss on s_T; states are 8 KiB a step")
    print(f"{'step':14}{'T':>6}{'states':>8}{'layer':>8}{'by hand':>9}")
    for name in ("gated", "deep"):
        for T in (500, 1000, 2000, 4000):
            layer, hand = (peak(name, way, T) for way in WAYS)
            print(f"{name:14}{T:6}{T / 128:8.1f}{layer:8.1f}{hand:9.1f}")


if __name__ == "__main__":
    main()
