"""A training step on a GPU: right first, then timed against cuDNN and whoever else is there."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..kernels import last_choice
from ..kernels.choose import TRITON
from .gpu_meeting import meet
from .gpu_right import KINDS, right
from .gpu_rivals import Case, contenders
from .gpu_steps import Size, right_steps, time_steps
from .gpu_table import Clock, Table, tf32

__all__ = ["no_gpu", "run_all"]

SIZES = [  # B, T, I, H; what is most telling comes first
    (64, 100, 128, 128),
    (64, 100, 256, 256),
    (64, 100, 512, 512),
    (16, 128, 1024, 1024),
    (8, 500, 64, 64),
]
STEPS, DRY_STEPS = Size(200, 16, 128), Size(3, 2, 3)
DRY = [(2, 3, 2, 5), (2, 2, 3, 70)]
PRECISIONS = ("bfloat16", "float32 with TF32", "float32")
SLOW = ("torch without cuDNN", "compiled loop")  # at the first size only


def no_gpu() -> str:
    """Return why nothing can be measured on a GPU here; "" if it can."""
    return "" if torch.cuda.is_available() else "There is no GPU here; nothing was measured."


def run_all(out: Path, *, minutes: float = 5, rounds: int = 10, dry: bool = False) -> bool:
    """Check and time everything; write gpu.json and gpu.md as rows come.

    Args:
        out: the folder for the two.
        minutes: begin no case after these.
        rounds: times that each step is timed; the least counts.
        dry: run at tiny sizes on the CPU, where times mean nothing.

    Returns:
        Whether every engine was right. Where one was not, nothing is timed.
    """
    device = torch.device("cpu" if dry else "cuda")
    table = Table(out, _about(dry), minutes)
    if not TRITON.missing():
        meet(table, device)
    fine = right(table, device, dry)
    if not (right_steps(table, device, dry) and fine):
        return False
    # Early, since it is short and nothing else shows it.
    time_steps(table, device, DRY_STEPS if dry else STEPS, 1 if dry else rounds)
    _training(table, device, DRY if dry else SIZES, 1 if dry else rounds)
    return True


def _about(dry: bool) -> dict[str, Any]:
    dry_run = "a dry run on the CPU: times mean nothing"
    return {
        "device": dry_run if dry else torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "CUDA": torch.version.cuda,
        "cuDNN": None if dry else torch.backends.cudnn.version(),
        "python": platform.python_version(),
        "triton": TRITON.missing() or "there",
        "TF32": "named with each case; torch's own default is TF32 for cuDNN and not for products",
    }


def _training(
    table: Table, device: torch.device, sizes: list[tuple[int, ...]], rounds: int
) -> None:
    clock, precisions = Clock(device), PRECISIONS[:2] if sizes is DRY else PRECISIONS
    for size in sizes:
        for kind in KINDS:
            for precision in precisions if size == sizes[0] else precisions[:-1]:
                if table.late():
                    table.add(table="Cut short", case=f"{kind} {size} {precision} and what follows")
                    return
                with tf32("TF32" in precision):
                    _case(table, Case(kind, size, precision, device), clock, rounds, size, sizes[0])


def _case(
    table: Table, case: Case, clock: Clock, rounds: int, size: tuple[int, ...], first: tuple
) -> None:
    """Add a row for every contender; one that fails must not take the others along."""
    wanted: dict[str, list[Tensor]] = {}
    for what, name, make in contenders(case):
        if name in SLOW and size != first:
            continue
        row: dict[str, Any] = {"case": case.name, "what": what, "who": name}
        try:
            step = make()
            found = step()
            engine = last_choice()
            if name.startswith("throughtime") and engine is not None:
                row["engine"] = engine.name
            row["apart"] = _apart(found, wanted.setdefault(what, found))
            few = min(rounds, 3) if name in SLOW else rounds
            row["ms"], row["peak MB"] = clock.least(step, few)
        except Exception as error:
            row["failed"] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        table.add(table="A training step", **row)


def _apart(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """Return how far gradients are from the first contender's, relative to each one's norm."""
    pairs = zip(ours, theirs, strict=True)
    return max(float((a - b).double().norm() / b.double().norm()) for a, b in pairs)
