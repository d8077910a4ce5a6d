"""Whether programs that meet after each step do so on a device, found out in a process of its own.

Programs that never meet end with an error of the device, and with it all that its process holds
there. So this is tried before anything else, and where it fails these kernels are left out.

Run: python -m throughtime.bench.gpu_meeting cuda
"""

from __future__ import annotations

import subprocess
import sys

import torch

from .. import cells, kernels
from ..kernels.comparison import term_error
from ..kernels.gpu import tiling
from .gpu_ahead import environment
from .gpu_table import Table

__all__ = ["meet"]

# Programs that share the columns: 5, 16 and 64; the interpreter takes only one.
SHAPES = [("Elman", 300), ("GRU", 256), ("LSTM", 1024)]
BOUND, SECONDS = 0.1, 120
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
    except subprocess.TimeoutExpired:
        fine, last = False, f"it took more than {SECONDS} s"
    return {"right": "yes", "largest error": float(last)} if fine else {"right": "NO", "why": last}


def largest_error(device: torch.device) -> float:
    """Return the largest error of a small sweep forward and back, against float64 on the CPU.

    Args:
        device: where the programs meet.
    """
    dry = device.type == "cpu"
    tiling.WAYS[:] = ["resident"]
    worst = 0.0
    for name, width in SHAPES:
        H = 5 if dry else width
        cell = getattr(cells, name)(3, H, dtype=torch.bfloat16)
        x, g = torch.randn(12, 33, 3).bfloat16(), torch.randn(1, 12, 33, cell.state_size).bfloat16()
        found = []
        for where, kind, engine in (
            (device, x.dtype, "triton"),
            ("cpu", torch.float64, "reference"),
        ):
            here = cell.to(where, kind)
            with kernels.use(engine):
                tape = kernels.forward(
                    here, x.to(where, kind), x.new_zeros(33, here.state_size).to(where, kind)
                )
                back = kernels.backward(here, tape, g.to(where, kind))
            found.append([t.detach().cpu().double() for t in (tape.s, *back)])
        worst = max(worst, *(term_error(a, b) for a, b in zip(*found, strict=True)))
    return worst


if __name__ == "__main__":
    error = largest_error(torch.device(sys.argv[1]))
    if error > BOUND:
        sys.exit(f"an error of {error:.3g}")
    print(error)
