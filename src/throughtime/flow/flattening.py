"""A state of several parts of any shape as one matrix (B, S), and back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["flat", "unflat"]


def flat(parts: Sequence[Tensor], rows: int | None, lead: int = 0) -> Tensor:
    """Return a state's parts side by side, (…, B, S).

    Args:
        parts: tensors of any shape.
        rows: which axis is the batch, counted after the leading ones; None: there is none.
        lead: how many leading axes stand before a part's own.
    """
    laid = [
        part.unsqueeze(lead).flatten(lead + 1)
        if rows is None or part.dim() == lead
        else part.movedim(lead + rows, lead).unsqueeze(-1).flatten(lead + 1)
        for part in parts
    ]
    return laid[0] if len(laid) == 1 else torch.cat(laid, -1)


def unflat(g: Tensor, parts: Sequence[Tensor], rows: int | None) -> list[Tensor]:
    """Return (…, B, S) in the shapes of the parts, as `flat` took them."""
    lead = g.shape[:-2]
    widths = [part.numel() // g.shape[-2] for part in parts]
    laid: list[Tensor] = []
    for own, part in zip(g.split(widths, -1), parts, strict=True):
        if rows is None or part.dim() == 0:
            laid.append(own.reshape(*lead, *part.shape))
            continue
        shape = list(part.shape)
        shape.insert(0, shape.pop(rows))
        laid.append(own.reshape(*lead, *shape).movedim(len(lead), len(lead) + rows))
    return laid
