"""What `throughtime bench` measures in processes of their own: peak memory, and the import."""

from __future__ import annotations

import subprocess
import sys

from .bench_rows import Memory

__all__ = ["memory", "startup"]

# A process of its own, because what was allocated before would hide a peak.
MEMORY = """
import importlib, sys
import torch
# VmHWM is this process's own; ru_maxrss begins at the parent's peak.
status = lambda: dict(line.split(":", 1) for line in open("/proc/self/status"))
peak = lambda: int(status()["VmHWM"].split()[0]) / 1024
torch.set_num_threads(2)
layer = getattr(importlib.import_module(sys.argv[1]), sys.argv[2])
# The first backward with a gradient given imports 33 MB of torch.
small = layer(8, 8); small(torch.randn(4, 2, 8))[0].backward(torch.ones(4, 2, 8))
model, x = layer(256, 256), torch.randn(200, 64, 256, requires_grad=True)
g = torch.randn(200, 64, 256)
before = peak()
for _ in range(2):
    model.zero_grad(); x.grad = None
    model(x)[0].backward(g)
print(peak() - before)
"""
IMPORT = """
import time
import torch
start = time.perf_counter()
import throughtime
print(1e3 * (time.perf_counter() - start))
"""


def memory(layers: tuple[str, ...]) -> list[Memory]:
    """Measure the peak memory of a training step.

    Args:
        layers: their names, which are the same here and in torch.nn.
    """
    return [
        Memory(layer, *(_number(MEMORY, package, layer) for package in ("throughtime", "torch.nn")))
        for layer in layers
    ]


def startup(times: int = 7) -> float:
    """Measure how many milliseconds the import takes once torch is there: the best of several.

    Args:
        times: how many processes.
    """
    return min(_number(IMPORT) for _ in range(times))


def _number(program: str, *arguments: str) -> float:
    """Run a program that prints one number; NaN where it fails."""
    run = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
    )
    return float(run.stdout or "nan")
