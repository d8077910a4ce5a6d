"""The sweep back over V losses in two launches a step: one product, and one kernel for the rest."""

# pyright: reportIndexIssue=false

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...cells.factors import Factors
from .pointwise import step_back
from .shape import Bound, as_bytes

__all__ = ["Course", "send_losses"]

# Columns that a program holds at a time.
WIDEST = 1024


class Course(NamedTuple):
    """Between which steps the losses run, where the host knows it; they are sorted by entry.

    Attributes:
        entries: the step at which each loss enters.
        floors: the lowest k that each loss is followed to.
    """

    entries: tuple[int, ...]
    floors: tuple[int, ...]

    def under_way(self, t: int) -> int:
        """Return the first loss that is under way at step t; all after it may be."""
        return bisect_left(self.entries, t)


def send_losses(
    factors: Factors,
    masks: Sequence[Tensor | None],
    g: Tensor,
    delta_T: Tensor | None,
    bounds: Sequence[Tensor | None],
    course: Course,
    bound: Bound,
) -> tuple[Tensor | None, ...]:
    """Send V losses back, and return adjoints, deltas, norms (None if not wanted) and dE/ds_0.

    Args:
        factors: of all steps.
        masks: ``active`` and ``reset``, (T, B) bool or None.
        g: direct gradients (V, T, B, G), or (T, B, G) with ``bound.lone``.
        delta_T: what else arrives at s_T, (V, B, S), or None.
        bounds: the course's two on the device (V,), or None twice where every loss takes all steps.
        course: between which steps the losses run.
        bound: what is stored.
    """
    T, B, A = factors.by_gate.shape
    width = factors.carry if factors.carry is not None else factors.through
    H = A if width is None else width.shape[-1]
    parts, V = 1 if factors.through is None else 2, len(course.entries)
    new, like = g.new_zeros if bounds[0] is not None else g.new_empty, factors.by_gate
    adjoints = new(V, T, B, A) if bound.adjoints else None
    deltas = new(V, T + 1, B, parts * H) if bound.deltas else None
    norms = new(V, T + 1, B) if bound.norms else None
    s_0 = new(V, B, parts * H)
    wide = like.dtype == torch.float64
    kept = like.new_empty(V, B, parts * H, dtype=like.dtype if wide else torch.float32)
    sent, product = like.new_empty(V, B, A), like.new_empty(V, B, H)
    read = [None if part is None else part.contiguous() for part in _tensors(factors)]
    given = [*read, *map(as_bytes, masks), g, delta_T, *bounds]
    tensors = [like if part is None else part for part in given]
    stored = [like if part is None else part for part in (adjoints, deltas, norms)]
    active, reset = masks
    for t in range(max(course.entries), min(course.floors) - 1, -1):
        first = course.under_way(t)
        step_back[(B * (V - first),)](
            *tensors, product, kept, sent, *stored, s_0, t, T, B, H, g.shape[-1],
            0 if bound.lone else g.stride(0), g.stride(-3), g.stride(-2), first,
            GATES=A // H, PARTS=parts, BLOCK=min(WIDEST, max(16, 1 << (H - 1).bit_length())),
            WIDE=wide, PRODUCT=factors.weight is not None, CARRY=factors.carry is not None,
            HIDDEN=factors.hidden is not None, STOPS=factors.stops, RAGGED=active is not None,
            RESETS=reset is not None, BEGUN=delta_T is not None, BOUNDED=bounds[0] is not None,
            LONE=bound.lone, ADJOINTS=adjoints is not None, DELTAS=deltas is not None,
            NORMS=norms is not None, enable_fp_fusion=True,
        )  # fmt: skip
        if factors.weight is not None and t > min(course.floors):
            torch.mm(sent[first:].flatten(0, 1), factors.weight, out=product[first:].flatten(0, 1))
    return adjoints, deltas, norms, s_0


def _tensors(factors: Factors) -> tuple[Tensor | None, ...]:
    return factors.by_gate, factors.carry, factors.through, factors.hidden
