"""Which losses are followed, how many at a time, and how far."""

from __future__ import annotations

import torch
from torch import Tensor

from ..cells.base import AbstractCell

__all__ = ["chosen", "chunks", "leave_out"]


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
