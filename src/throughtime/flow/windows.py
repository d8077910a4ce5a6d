"""Which losses are followed, how many at a time, and how far."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..cells.base import AbstractCell

__all__ = ["Sample", "chosen", "chunks", "leave_out"]


class Sample(NamedTuple):
    """Of a scalar loss, what is followed where not all of it needs to be.

    Attributes:
        steps: from so many of the steps at which it enters a layer, evenly spread, the last one
            included.
        rows: in so many of the batch rows that it reaches, evenly spread.
    """

    steps: int = 4
    rows: int = 8

    def steps_of(self, enters: Tensor) -> Tensor:
        """Return the steps to follow it from, counted from 0.

        Args:
            enters: (T, B) bool, where anything enters.
        """
        there = enters.any(1).nonzero().flatten()
        return _spread(there, self.steps) if len(there) else there.new_tensor([len(enters) - 1])

    def rows_of(self, enters: Tensor) -> Tensor:
        """Return the rows to follow.

        Args:
            enters: (T, B) bool, where anything enters.
        """
        return _spread(enters.any(0).nonzero().flatten(), self.rows)


def _spread(numbers: Tensor, most: int) -> Tensor:
    """Return at most so many of some numbers, evenly spread, the last one included."""
    count = min(most, len(numbers))
    if not count:
        return numbers
    places = (torch.arange(1, count + 1, device=numbers.device) * len(numbers)) // count - 1
    return numbers[places]


def chosen(V: int, every: int | None, device: torch.device) -> Tensor:
    """Return one of every so many losses, counted from the last one."""
    return torch.arange(V - 1, -1, -(every or 1), device=device).flip(0)


def leave_out(
    cell: AbstractCell | None, norms: Tensor, enters: Tensor, window: int | None
) -> Tensor:
    """Mark what lies beyond the window as not measured."""
    if window is not None:
        k = torch.arange(norms.shape[1], device=norms.device)[None, :, None]
        # A row that a loss does not read may be reached by way of other rows (statistics over the
        # batch, rows that change places). It is followed no further than they are.
        reached = (norms != 0).any(1)
        if cell is None or cell.rows_depend:
            reached = torch.ones_like(reached)
        by_others = (enters == 0) & reached
        stands = torch.where(by_others, enters.amax(1, keepdim=True), enters)
        norms.masked_fill_(k < stands[:, None, :] - window, torch.nan)
    return norms


def chunks(V: int, bytes_per_loss: int, memory: int) -> list[slice]:
    """Return slices of the losses that fit into ``memory`` together."""
    size = max(1, memory // max(1, bytes_per_loss))
    return [slice(first, min(first + size, V)) for first in range(0, V, size)]
