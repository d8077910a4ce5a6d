"""A training step on a GPU: right first, then timed against cuDNN and whoever else is there."""

from __future__ import annotations

import math
import platform
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckError
from ..kernels import last_choice
from ..kernels.choose import TRITON
from .gpu_ahead import compile_ahead
from .gpu_meeting import meet
from .gpu_right import KINDS, right, wrong
from .gpu_rivals import Case, contenders
from .gpu_steps import Size, right_steps, time_steps, wrong_steps
from .gpu_table import Clock, Table, tf32

__all__ = ["no_gpu", "run_all"]

SIZES = [  # B, T, I, H; what is most telling comes first
    (64, 100, 256, 256),
    (64, 100, 128, 128),
    (64, 100, 512, 512),
    (16, 128, 1024, 1024),
    (8, 500, 64, 64),
]
STEPS, DRY_STEPS = Size(200, 16, 128), Size(3, 2, 3)
DRY = [(2, 3, 2, 5), (2, 2, 3, 70)]
PRECISIONS = ("bfloat16", "float32 with TF32", "float32")
# How far gradients may be from the first contender's, relative to each one's norm.
APART = {"bfloat16": 0.2, "float32 with TF32": 0.02, "float32": 1e-3}
LATER = ("torch without cuDNN", "compiled loop")  # at the first size only


def no_gpu() -> str:
    """Return why nothing can be measured on a GPU here; "" if it can."""
    return "" if torch.cuda.is_available() else "There is no GPU here; nothing was measured."


def run_all(out: Path, *, minutes: float = 5, rounds: int = 10, dry: bool = False) -> bool:
    """Check and time everything; write gpu.json and gpu.md as rows come.

    What is wrong, or fails, is a row that says so, and is not timed; all else is.

    Args:
        out: the folder for the two.
        minutes: begin no case after these.
        rounds: times that each step is timed; the least counts.
        dry: run at tiny sizes on the CPU, where times mean nothing.

    Returns:
        Whether everything of ours was right; of a dry run, whether nothing failed at all.
    """
    device = torch.device("cpu" if dry else "cuda")
    table, rounds = Table(out, _about(dry), minutes), 1 if dry else rounds
    if not TRITON.missing():
        meet(table, device)
        # A dry run tries one process alone.
        kinds, sizes, precisions = (
            (KINDS[:1], DRY[:1], PRECISIONS[:1]) if dry else (KINDS, SIZES, PRECISIONS)
        )
        compile_ahead(table, kinds, device, sizes, precisions)
    right(table, device, dry)
    right_steps(table, device, dry)
    # Early, since it is short and nothing else shows it.
    time_steps(table, device, DRY_STEPS if dry else STEPS, rounds)
    for slow in (False, True):  # what compiles or tunes for long comes when the rest is there
        _training(table, device, DRY if dry else SIZES, rounds, slow)
    failed = any("failed" in row for row in table.rows)
    return not (wrong(table) or wrong_steps(table) or (dry and failed))


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
    table: Table, device: torch.device, sizes: list[tuple[int, ...]], rounds: int, slow: bool
) -> None:
    clock, precisions = Clock(device), PRECISIONS[:2] if sizes is DRY else PRECISIONS
    for size in sizes:
        for precision in precisions if size == sizes[0] else precisions[:-1]:
            for kind in KINDS:
                if table.late():
                    case = f"{kind} {size} {precision} and what follows"
                    table.add(table="Cut short", case=case)
                    return
                with tf32("TF32" in precision):
                    case = Case(kind, size, precision, device)
                    _case(table, case, clock, rounds, slow, size == sizes[0])


def _case(table: Table, case: Case, clock: Clock, rounds: int, slow: bool, first: bool) -> None:
    """Add a row for every contender; one that fails must not take the others along."""
    wanted: dict[str, list[Tensor]] = {}
    bad = wrong(table)
    for contender in contenders(case):
        what, name = contender.what, contender.name
        if (contender.slow != slow and what in wanted) or (name in LATER and not first):
            continue
        key = {"table": "A training step", "case": case.name, "what": what, "who": name}
        if contender.slow != slow or table.has(**key):
            if what not in wanted:  # what this one's gradients were is what the others' should be
                with suppress(Exception):
                    wanted[what] = contender.make()()
            continue
        if table.late():
            return
        told = {"kind": case.kind, "H": case.H, "precision": case.precision}
        with table.row(**key, **told) as row:
            if (contender.engine, case.kind) in bad:
                raise CheckError("it was wrong, so it is not timed")
            step = contender.make()
            found = step()
            engine = last_choice()
            if contender.engine and engine is not None:
                row["engine"] = engine.name
            row["apart"] = _apart(found, wanted.setdefault(what, found))
            row["agrees"] = "yes" if row["apart"] <= APART[case.precision] else "NO"
            row["ms"], row["peak MB"] = clock.least(step, rounds)


def _apart(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """Return how far gradients are from the first contender's, relative to each one's norm."""
    pairs = zip(ours, theirs, strict=True)
    apart = [float((a - b).double().norm() / b.double().norm()) for a, b in pairs]
    return math.nan if any(map(math.isnan, apart)) else max(apart)
