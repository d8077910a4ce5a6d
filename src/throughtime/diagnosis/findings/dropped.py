"""Input behind a dropout: steps that are one and the same but for what was dropped."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["undropped"]


def undropped(x: Tensor, length: Tensor, near: Tensor, *, back: int = 8) -> Tensor:
    """Return x (T, B, I) with the steps that equal each row's last one, but for zeros, made equal.

    An embedding of one padding word is not constant behind a dropout: each step lacks other
    entries. What the last steps have between them is the word itself.

    Args:
        x: the input.
        length: (B,), how many steps each row takes.
        near: how far apart equal numbers may be.
        back: how many steps from the end are put together.
    """
    if not _looks_dropped(x):
        return x
    each = torch.arange(x.shape[1], device=x.device)
    whole = x[(length - 1).clamp(min=0), each]
    for k in range(2, back + 1):
        step = x[(length - k).clamp(min=0), each]
        both = (step != 0) & (whole != 0)
        equal = (step - whole).abs() <= near
        fits = (both & equal).any(-1) & ~(both & ~equal).any(-1)
        whole = torch.where(fits[:, None] & (whole == 0), step, whole)
    there = x != 0
    same = there.any(-1) & (~there | ((x - whole).abs() <= near)).all(-1)
    return torch.where(same[..., None], whole, x)


def _looks_dropped(
    x: Tensor, *, few: float = 0.02, most: float = 0.95, values: int = 4, looked_at: int = 256
) -> bool:
    """Check whether zeros stand among numbers of many values, as behind a dropout.

    Args:
        x: the input.
        few: the least share of zeros.
        most: and the largest.
        values: more than so many different numbers must be in a feature, half of the features or
            more: one-hot input and flags have one.
        looked_at: at so many steps of rows.
    """
    flat = x.flatten(0, 1)
    flat = flat[:: max(1, len(flat) // looked_at)]
    zeros = float((flat == 0).float().mean())
    if not few <= zeros <= most:
        return False
    ordered = flat.sort(0).values
    different = ((ordered[1:] != ordered[:-1]) & (ordered[1:] != 0)).sum(0)
    return float((different > values).float().mean()) >= 0.5
