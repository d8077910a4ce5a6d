"""A cell's recurrence as the kernels are told of it."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ... import torch_state
from ...cells import AbstractCell
from .tiling import GATES, ROWS, Tiling, plan_of, recurrence
from .triton_language import INTERPRETED

__all__ = ["Bound", "Shape", "as_bytes", "precision", "shape_of", "tiles"]


class Bound(NamedTuple):
    """What a backward sweep over V losses stores, and between which steps it runs.

    Attributes:
        adjoints: whether the adjoints are wanted.
        deltas: whether ∂E_v/∂s_k is wanted.
        norms: whether its norms are wanted.
        lone: whether a loss has the direct gradient of the step alone at which it enters.
    """

    adjoints: bool = True
    deltas: bool = False
    norms: bool = False
    lone: bool = False


class Shape(NamedTuple):
    """A recurrence and its plan.

    Attributes:
        name: the recurrence, as `tiling.recurrence` returns it.
        H: the width of h.
        gates: how many gates W_h has.
        parts: how many vectors of width H the state has.
        plan: how it is taken.
    """

    name: str
    H: int
    gates: int
    parts: int
    plan: Tiling

    def options(self) -> dict[str, Any]:
        """Return what every kernel is compiled for."""
        return {
            "CELL": self.name,
            "GATES": self.gates,
            "PARTS": self.parts,
            "ROWS": ROWS,
            "PRECISION": precision(),
            "INTERPRETED": INTERPRETED,
            "num_warps": self.plan.warps,
            # Said aloud, since Triton is about to change what it does unasked.
            "enable_fp_fusion": True,
        }


def precision() -> str:
    """Return how float32 is multiplied: exactly enough by three TF32 products, or by one.

    One is what torch's own switch allows: ``torch.backends.cuda.matmul.allow_tf32``.
    """
    return "tf32" if torch_state.products_in_tf32() else "tf32x3"


def shape_of(cell: AbstractCell) -> Shape:
    """Return the shape of a cell that the kernels serve."""
    name = recurrence(cell)
    assert name is not None
    plan = plan_of(cell)
    parts = 2 if name == "lstm" else 1
    return Shape(name, cell.hidden_size, GATES.get(name, 1), parts, plan)


def tiles(size: int, of: int = ROWS) -> int:
    """Return how many tiles cover ``size``."""
    return -(-size // of)


def as_bytes(mask: Tensor | None) -> Tensor | None:
    """Return a mask (T, B) as the kernels read it."""
    return None if mask is None else mask.contiguous().view(torch.uint8)
