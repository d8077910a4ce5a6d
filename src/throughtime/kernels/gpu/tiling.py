"""Which kernel takes which shape, and the counts behind it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch

from ...cells import GRU, LSTM, AbstractCell, Elman

__all__ = [
    "COLUMNS",
    "GATES",
    "INNER",
    "MULTIPROCESSOR",
    "PROCESSORS",
    "RESIDENT",
    "RESIDENT_DTYPES",
    "RESIDENT_WARPS",
    "ROWS",
    "SHARED",
    "WAYS",
    "Tiling",
    "only",
    "plan_for",
    "plan_of",
    "processors",
    "recurrence",
]

GATES = {"lstm": 4, "gru": 3}
# Rows of the batch in a program: the narrowest tile that the tensor cores take as W_h·hᵀ, so that
# as many programs as possible share the batch.
ROWS = 16
# The shared memory that a program may have on an H100 or H200, in bytes; a device with less is
# left to the other engines; and how many multiprocessors these have.
MULTIPROCESSOR, PROCESSORS = 227 * 1024, 132
# What of it a program may keep of W_h. The rest is for the state and what a step stages, up to 72
# KiB as compiled for sm_90; the next wider W_h is twice as large.
SHARED = 132 * 1024
# The largest tile, in columns of W_h, of a program that takes one step.
COLUMNS, INNER = 64, 64
# Rows of W_h, gates and columns together, of a program that keeps its share: what the tensor cores
# take at once; and its warps, among which the state that it reads has room in registers.
RESIDENT, RESIDENT_WARPS = 64, 8
# The numbers of which two parts have no room in registers, beside what a step needs.
RESIDENT_DTYPES = {torch.float16, torch.bfloat16}
# The ways that there are, the first that fits being taken.
WAYS = ["whole", "resident", "steps"]


class Tiling(NamedTuple):
    """How a shape is taken.

    Attributes:
        way: "whole", where one program takes its rows through all steps; "resident", where
            programs share the columns, keep their share of W_h and meet after each step; "steps",
            where each step is a launch.
        wide: H, rounded up to a power of two of at least 16: what a program pads to.
        weight_bytes: what W_h takes in a program, padded; twice for float32, which the tensor
            cores multiply as the sum of two parts.
        operations: of one step forward for one row: 2·GATES·H².
        warps: of a program that keeps W_h, or takes one step.
        reason: the choice in a sentence.
        spread: the rows of W_h that stand for a column, where a program keeps its share.
        sharing: how many programs share the columns then.
        groups: how many of such there can be at once.
    """

    way: str
    wide: int
    weight_bytes: int
    operations: int
    warps: int
    reason: str
    spread: int = 1
    sharing: int = 1
    groups: int = 1

    @property
    def columns(self) -> int:
        """Return how many columns a program has that keeps its share."""
        return RESIDENT // self.spread


@contextmanager
def only(*ways: str) -> Iterator[None]:
    """Take only these ways meanwhile, the first that fits.

    Args:
        ways: some of `WAYS`; "steps" fits always.

    Example:
        >>> with only("steps"):
        ...     plan_for("lstm", 8, torch.float32).way
        'steps'
    """
    before = list(WAYS)
    WAYS[:] = ways
    try:
        yield
    finally:
        WAYS[:] = before


def recurrence(cell: AbstractCell) -> str | None:
    """Return which recurrence of the kernels a cell is; None if it is none of them."""
    kind = type(cell)
    if kind is Elman:
        return cell.nonlinearity  # pyright: ignore[reportReturnType]
    if kind is LSTM and not cell.projected:  # pyright: ignore[reportGeneralTypeIssues]
        return "lstm"
    return "gru" if kind is GRU else None


def plan_for(name: str, H: int, dtype: torch.dtype, processors: int = PROCESSORS) -> Tiling:
    """Return how a recurrence of width H is taken in this dtype.

    Args:
        name: the recurrence, as `recurrence` returns it.
        H: the width of h.
        dtype: of the weights.
        processors: how many programs a device runs at the same time, each with all of a
            multiprocessor's shared memory.

    Example:
        >>> [plan_for("lstm", H, torch.bfloat16).way for H in (128, 256, 1024, 2048)]
        ['whole', 'resident', 'resident', 'steps']
    """
    gates, wide = GATES.get(name, 1), max(16, 1 << (H - 1).bit_length())
    parts = 2 if dtype == torch.float32 else 1
    number = dtype.itemsize if parts == 1 else 4 * parts
    spread = 1 if gates == 1 else 4
    sharing = -(-H * spread // RESIDENT)
    takes = {"whole": gates * wide * wide * number, "resident": RESIDENT * wide * number}
    fits = {
        "whole": takes["whole"] <= SHARED,
        "resident": dtype in RESIDENT_DTYPES
        and takes["resident"] <= SHARED
        and sharing <= processors,
        "steps": True,
    }
    way = next(way for way in WAYS if fits[way])
    rule = f"W_h takes {takes['whole'] / 1024:g} KiB of a program's {SHARED // 1024}"
    told = {
        "whole": f"so a program keeps it and takes {ROWS} rows through all steps: one launch",
        "resident": f"so {sharing} programs share its columns, {takes['resident'] / 1024:g} KiB "
        "each, and meet after each step: one launch",
        "steps": "so each step is one launch",
    }
    # Four warps take 64 rows of W_h on the tensor cores; more where the registers run out.
    many = way == "whole" and (wide > 64 or (wide == 64 and parts == 2))
    return Tiling(
        way, wide, takes.get(way, takes["whole"]), 2 * gates * H * H, 8 if many else 4,
        f"{rule}, {told[way]}", spread, sharing, processors // sharing,
    )  # fmt: skip


def processors(device: torch.device) -> int:
    """Return how many programs run at the same time: on a CPU, in the interpreter, one.

    Args:
        device: where they run.
    """
    if device.type != "cuda":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count


def plan_of(cell: AbstractCell) -> Tiling:
    """Return how a cell that the kernels serve is taken on its device."""
    name, weight = recurrence(cell), cell.weights()["weight_hh"]
    assert name is not None
    return plan_for(name, cell.hidden_size, weight.dtype, processors(weight.device))
