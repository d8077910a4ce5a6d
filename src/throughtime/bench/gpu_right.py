"""Whether what runs on a GPU is right there: against float64 on the CPU, before it is timed."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch

from .. import cells, kernels
from ..kernels.choose import TRITON
from ..kernels.comparison import check_kernel, term_error
from .gpu_table import Table, tf32

__all__ = ["KINDS", "NOT_IN_TORCH", "right", "right_of", "wrong"]

RIGHT = "Right, against float64 on the CPU"
NOT_IN_TORCH = ("sigmoid", "identity")  # nonlinearities of the Elman cell
KINDS = ("GRU", "LSTM", "RNN", *NOT_IN_TORCH)
BOUNDS = {"bfloat16": 0.1, "float16": 0.02, "float32": 2e-5}
# Every kernel is compiled when it is first used, for seconds: so not everything at every size.
CHECKED = [(17, "float32"), (128, "bfloat16"), (300, "bfloat16"), (130, "float32")]


def right(table: Table, device: torch.device, dry: bool) -> None:
    """Compare each engine on the device with the float64 reference on the CPU, term by term.

    Args:
        table: what gets a row for each comparison.
        device: where the engines run.
        dry: whether sizes are tiny.
    """
    missing = TRITON.missing()
    for engine in ("torch", "triton"):
        for kind in KINDS:
            for H, name in _checked(dry):
                key = {"table": RIGHT, "engine": engine, "kind": kind, "H": H, "dtype": name}
                if table.has(**key) or (engine == "torch" and kind in NOT_IN_TORCH):
                    continue
                with table.row(**key) as row:
                    if engine == "triton" and missing:
                        row |= {"right": "not there", "why": missing}
                    else:
                        row |= _check(_cell(kind, H), engine, device, name, dry)


def right_of(kind: str, engine: str, device: torch.device) -> None:
    """Run all comparisons of one kind on an engine, and tell nobody what comes out.

    Args:
        kind: one of ``KINDS``.
        engine: "torch" or "triton".
        device: where it runs.
    """
    dry = device.type == "cpu"
    for H, name in _checked(dry):
        with suppress(Exception):
            _check(_cell(kind, H), engine, device, name, dry)


def wrong(table: Table) -> set[tuple[str, str]]:
    """Return which engine was wrong, or failed, for which kind.

    Args:
        table: the rows of `right`.
    """
    rows = [row for row in table.rows if row["table"] == RIGHT]
    return {
        (row["engine"], row["kind"]) for row in rows if row.get("right") not in ("yes", "not there")
    }


def _checked(dry: bool) -> list[tuple[int, str]]:
    """Return the widths and precisions that are compared."""
    return [(5, name) for _, name in CHECKED[:2]] if dry else CHECKED


def _cell(kind: str, H: int) -> Any:
    if kind in NOT_IN_TORCH:
        return cells.Elman(3, H, nonlinearity=kind)
    return getattr(cells, "Elman" if kind == "RNN" else kind)(3, H)


def _check(cell: Any, engine: str, device: torch.device, name: str, dry: bool) -> dict[str, Any]:
    dtype, bound = getattr(torch, name), BOUNDS[name]
    T, B = (3, 2) if dry else (12, 33)
    if engine == "triton" and device.type == "cpu":
        found = check_kernel(
            cell.double(), engine=engine, dtype=dtype, T=T, B=B, V=2, span="prefix",
            resets=True, tolerance=bound,
        )  # fmt: skip
        return {"right": "yes", "largest error": max(found.values())}
    return _on_device(cell, engine, device, dtype, bound, T, B)


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
