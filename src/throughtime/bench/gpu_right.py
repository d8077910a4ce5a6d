"""Whether what runs on a GPU is right there: against float64 on the CPU, before it is timed."""

from __future__ import annotations

from typing import Any

import torch

from .. import cells, kernels
from ..kernels.choose import TRITON
from ..kernels.comparison import check_kernel, term_error
from .gpu_table import Table, tf32

__all__ = ["right"]

KINDS = ("GRU", "LSTM", "RNN")
BOUNDS = {"bfloat16": 0.1, "float16": 0.02, "float32": 2e-5}
# Every kernel is compiled when it is first used, for seconds: so not everything at every size.
CHECKED = [(17, "float32"), (128, "bfloat16"), (300, "bfloat16"), (130, "float32")]


def right(table: Table, device: torch.device, dry: bool) -> bool:
    """Compare each engine on the device with the float64 reference on the CPU, term by term.

    Args:
        table: what gets a row for each comparison.
        device: where the engines run.
        dry: whether sizes are tiny.
    """
    missing, fine = TRITON.missing(), True
    for engine in ("torch", "triton"):
        for kind in KINDS:
            cell = getattr(cells, "Elman" if kind == "RNN" else kind)
            for H, name in CHECKED[:2] if dry else CHECKED:
                H = 5 if dry else H
                row: dict[str, Any] = {"engine": engine, "kind": kind, "H": H, "dtype": name}
                if engine == "triton" and missing:
                    row |= {"right": "not there", "why": missing}
                else:
                    row |= _check(cell(3, H), engine, device, name, dry)
                    fine &= row["right"] == "yes"
                table.add(table="Right, against float64 on the CPU", **row)
    return fine


def _check(cell: Any, engine: str, device: torch.device, name: str, dry: bool) -> dict[str, Any]:
    dtype, bound = getattr(torch, name), BOUNDS[name]
    T, B = (3, 2) if dry else (12, 33)
    try:
        if engine == "triton" and device.type == "cpu":
            found = check_kernel(
                cell.double(), engine=engine, dtype=dtype, T=T, B=B, V=2, span="prefix",
                resets=True, tolerance=bound,
            )  # fmt: skip
            return {"right": "yes", "largest error": max(found.values())}
        return _on_device(cell, engine, device, dtype, bound, T, B)
    except Exception as error:  # what does not compile, launch or agree is a row too
        return {"right": f"NO: {type(error).__name__}: {str(error).splitlines()[0]}"}


def _on_device(
    cell: Any, engine: str, device: torch.device, dtype: torch.dtype, bound: float, T: int, B: int
) -> dict[str, Any]:
    """Run a ragged batch with resets on the device, and on the CPU in float64 with its numbers."""
    draw = torch.Generator().manual_seed(0)
    small = cell.to(dtype)
    x, g = (torch.randn(T, B, n, generator=draw).to(dtype) for n in (3, cell.hidden_size))
    lengths = torch.randint(0, T + 1, (B,), generator=draw)
    lengths[0] = T
    active = torch.arange(T)[:, None] < lengths
    reset = (torch.rand(T, B, generator=draw) < 0.2) & active
    found = []
    for where, kind, name in ((device, dtype, engine), ("cpu", torch.float64, "reference")):
        here = small.to(where, kind)
        masks = active.to(where), reset.to(where)
        with kernels.use(name), tf32(False):
            given = here, x.to(where, kind), None, *masks
            done = kernels.choose.choose(*given, states=engine != "torch").outputs(*given)
            assert done.tape is not None
            grads = kernels.gradients(here, done.tape, g.to(where, kind))
            many = []
            if engine != "torch":
                enters = torch.arange(1, T + 1, device=where)
                many = [kernels.losses(here, done.tape, g.to(where, kind), enters=enters).norms]
        weights = [w.flatten() for w in grads.weights.values()]
        # All of a quantity is one term: what cancels in a row of bfloat16 has no digits left.
        terms = [done.h, grads.x, grads.s_0, *many, *weights]
        found.append([term.detach().cpu().double().flatten() for term in terms])
    worst = max(term_error(a, b) for a, b in zip(*found, strict=True))
    return {"right": "yes" if worst <= bound else "NO", "largest error": worst}
