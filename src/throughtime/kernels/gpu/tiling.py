"""Which kernel takes which shape, and the counts behind it."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ...cells import GRU, LSTM, AbstractCell, Elman

__all__ = [
    "COLUMNS",
    "GATES",
    "INNER",
    "MULTIPROCESSOR",
    "ROWS",
    "SHARED",
    "Tiling",
    "plan_for",
    "recurrence",
]

GATES = {"lstm": 4, "gru": 3}
# Rows of the batch in a program: the narrowest tile that the tensor cores take as W_h·hᵀ, so that
# as many programs as possible share the batch.
ROWS = 16
# The shared memory that a program may have on an H100 or H200, in bytes; a device with less is
# left to the other engines.
MULTIPROCESSOR = 227 * 1024
# What of it a program may keep of W_h. The rest is for the state and what a step stages, up to 72
# KiB as compiled for sm_90; the next wider W_h is twice as large.
SHARED = 132 * 1024
# The largest tile, in columns of W_h, of a program that takes one step.
COLUMNS, INNER = 64, 64


class Tiling(NamedTuple):
    """How a shape is taken.

    Attributes:
        whole: whether one program takes its rows through all steps.
        wide: H, rounded up to a power of two of at least 16: what a program pads to.
        weight_bytes: what W_h takes in a program, padded; twice for float32, which the tensor
            cores multiply as the sum of two parts.
        operations: of one step forward for one row: 2·GATES·H².
        warps: of a program.
        reason: the choice in a sentence.
    """

    whole: bool
    wide: int
    weight_bytes: int
    operations: int
    warps: int
    reason: str


def recurrence(cell: AbstractCell) -> str | None:
    """Return which recurrence of the kernels a cell is; None if it is none of them."""
    kind = type(cell)
    if kind is Elman:
        return cell.nonlinearity  # pyright: ignore[reportReturnType]
    if kind is LSTM and not cell.projected:  # pyright: ignore[reportGeneralTypeIssues]
        return "lstm"
    return "gru" if kind is GRU else None


def plan_for(name: str, H: int, dtype: torch.dtype) -> Tiling:
    """Return how a recurrence of width H is taken in this dtype.

    Args:
        name: the recurrence, as `recurrence` returns it.
        H: the width of h.
        dtype: of the weights.

    Example:
        >>> plan_for("lstm", 128, torch.bfloat16).whole, plan_for("lstm", 256, torch.bfloat16).whole
        (True, False)
    """
    gates, wide = GATES.get(name, 1), max(16, 1 << (H - 1).bit_length())
    parts = 2 if dtype == torch.float32 else 1
    kept = gates * wide * wide * (dtype.itemsize if parts == 1 else 4 * parts)
    whole = kept <= SHARED
    rule = f"W_h takes {kept / 1024:g} KiB of a program's {SHARED // 1024}"
    told = (
        f"{rule}, so a program keeps it and takes {ROWS} rows through all steps: one launch"
        if whole
        else f"{rule}, so each step is one launch"
    )
    # Four warps take 64 rows of W_h on the tensor cores; more where the registers run out.
    many = whole and (wide > 64 or (wide == 64 and parts == 2))
    return Tiling(whole, wide, kept, 2 * gates * H * H, 8 if many else 4, told)
