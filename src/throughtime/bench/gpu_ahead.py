"""Triton's kernels compiled ahead of a table, a process for each kind at once.

One takes a second or two, and the table needs some two hundred; Triton keeps them on disk. A kernel
that never comes back is noticed here too, and ends with its process.

Run by `throughtime.bench.gpu`, as: python -m throughtime.bench.gpu_ahead KIND DEVICE SIZES
PRECISIONS WAYS.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch

from ..kernels.gpu import tiling
from .gpu_right import right_of
from .gpu_rivals import Case, contenders
from .gpu_table import Table, tf32

__all__ = ["compile_ahead", "environment"]

LONGEST = 100  # seconds


def compile_ahead(
    table: Table,
    kinds: Sequence[str],
    device: torch.device,
    sizes: Sequence[tuple[int, ...]],
    precisions: Sequence[str],
) -> None:
    """Let processes compile what the kinds need, and wait for them.

    Args:
        table: what gets a row for each.
        kinds: as `gpu_right` names them.
        device: where they run.
        sizes: B, T, I, H of each case.
        precisions: of the cases.
    """
    asked = [device.type, *map(json.dumps, (sizes, precisions, tiling.WAYS))]
    began, running = time.monotonic(), {}
    for kind in kinds:
        if not table.has(table="Compiled ahead", kind=kind):
            command = [sys.executable, "-m", __name__, kind, *asked]
            running[kind] = subprocess.Popen(
                command,
                env=environment(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
    for kind, process in running.items():
        with table.row(table="Compiled ahead", kind=kind) as row, process:
            try:
                told = process.communicate(timeout=max(1, began + LONGEST - time.monotonic()))[1]
            finally:
                process.kill()  # which does nothing to one that has ended
            row["seconds"] = time.monotonic() - began
            if process.returncode:
                row["failed"] = (told.strip().splitlines() or [""])[-1][:300]


def environment() -> dict[str, str]:
    """Return that of a child which finds this package, installed or not."""
    paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def run_kind() -> None:
    """Run every step of one kind once; what fails is told by the table's own rows."""
    kind, name = sys.argv[1:3]
    sizes, precisions, ways = map(json.loads, sys.argv[3:])
    tiling.WAYS[:] = ways
    device = torch.device(name)
    right_of(kind, "triton", device)
    for precision in precisions:
        for B, _, I, H in sizes:
            case = Case(kind, (B, 2, I, H), precision, device)
            for contender in contenders(case):
                if contender.engine == "triton":
                    with tf32("TF32" in precision), suppress(Exception):
                        contender.make()()


if __name__ == "__main__":
    run_kind()
