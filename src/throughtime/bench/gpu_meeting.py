"""Whether programs that meet after each step do so on a device, found out in a process of its own.

Programs that never meet end with an error of the device, and with it all that its process holds
there. So this is tried before anything else, and where it fails these kernels are left out.

Run: python -m throughtime.bench.gpu_meeting cuda
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import torch
from torch import Tensor

from .. import cells, kernels
from ..kernels.comparison import term_error
from ..kernels.gpu import tiling
from ..kernels.gpu.bare import too_large
from .gpu_ahead import environment
from .gpu_table import Table

__all__ = ["meet"]

# Programs that share the columns: 5, 16 and 64; the interpreter takes only one.
SHAPES = [("Elman", 300), ("GRU", 256), ("LSTM", 1024)]
BOUND, SECONDS = 0.1, 120
# Rows, and steps that are compared with the reference; how many more are taken how often, where
# the same must come out each time.
SIZE, AGAIN = (33, 12, 300), 3
NAME = "Programs that meet, in a process of their own"


def meet(table: Table, device: torch.device) -> bool:
    """Try it unless it was tried, add a row, and leave these kernels out where it fails.

    Args:
        table: what gets the row.
        device: where it is tried.

    Returns:
        Whether they met and were right.
    """
    if not table.has(table=NAME):
        table.add(table=NAME, **_tried(device))
    fine = table.has(table=NAME, right="yes")
    if not fine:
        tiling.WAYS.remove("resident")
    return fine


def _tried(device: torch.device) -> dict[str, object]:
    """Return what a process of its own found."""
    command = [sys.executable, "-m", __name__, device.type]
    try:
        done = subprocess.run(
            command, env=environment(), capture_output=True, text=True, timeout=SECONDS, check=False
        )
        told = [*done.stderr.strip().splitlines(), *done.stdout.strip().splitlines()]
        fine, last = not done.returncode, (told or ["it ended without a word"])[-1]
        if not fine:  # below torch's own line stands what to do about any error of a device
            last = next((line for line in reversed(told) if "Error: " in line), last)
    except subprocess.TimeoutExpired:
        fine, last = False, f"it took more than {SECONDS} s"
    return {"right": "yes", "largest error": float(last)} if fine else {"right": "NO", "why": last}


def largest_error(device: torch.device) -> float:
    """Return the largest error of a small sweep forward and back, against float64 on the CPU.

    inf where many steps, taken again, came out otherwise than before: who does not wait for all
    others is right by chance.

    Args:
        device: where the programs meet.
    """
    dry = device.type == "cpu"
    rows, few, many = (3, 3, 2) if dry else SIZE
    # The others are for what a device is tried with first, in float32.
    tiling.WAYS[:] = ["resident", "whole", "steps"]
    worst = 0.0
    for name, width in SHAPES:
        cell = getattr(cells, name)(3, 5 if dry else width, dtype=torch.bfloat16)
        x, g = _given(few, rows, cell.state_size)
        found = [
            _swept(cell, where, kind, engine, x, g)
            for where, kind, engine in (
                (device, x.dtype, "triton"),
                (torch.device("cpu"), torch.float64, "reference"),
            )
        ]
        worst = max(worst, *(term_error(a, b) for a, b in zip(*found, strict=True)))
        x, g = _given(many, rows, cell.state_size)
        first, *later = (_swept(cell, device, x.dtype, "triton", x, g) for _ in range(AGAIN))
        if not all(torch.equal(a, b) for found in later for a, b in zip(first, found, strict=True)):
            return float("inf")
    return worst


def _given(steps: int, rows: int, width: int) -> tuple[Tensor, Tensor]:
    """Return an input and the direct gradients."""
    return torch.randn(steps, rows, 3).bfloat16(), torch.randn(1, steps, rows, width).bfloat16()


def _swept(
    cell: Any, device: torch.device, kind: torch.dtype, engine: str, x: Tensor, g: Tensor
) -> list[Tensor]:
    """Return the states and what the backward pass found."""
    here, x, g = cell.to(device, kind), x.to(device, kind), g.to(device, kind)
    with kernels.use(engine):
        tape = kernels.forward(here, x, x.new_zeros(x.shape[1], here.state_size))
        found = tape.s, *kernels.backward(here, tape, g)
    return [t.detach().cpu().double() for t in found]


def _main() -> None:
    error = largest_error(torch.device(sys.argv[1]))
    if too_large():
        sys.exit("not all programs could run at the same time")
    if error > BOUND:
        sys.exit(f"an error of {error:.3g}")
    print(error)


if __name__ == "__main__":
    _main()
