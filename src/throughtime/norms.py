"""The 2-norm of vectors whose squares may leave the floating-point range."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["size", "vector_norm"]


# No square of these leaves the range of float64.
NARROW = (torch.float32, torch.float16, torch.bfloat16)


def size(x: Tensor) -> float:
    """Return the 2-norm of all entries, as a number."""
    if x.dtype in NARROW:
        return torch.linalg.vector_norm(x, dtype=torch.float64).item()
    return float(vector_norm(x.flatten()))


def vector_norm(x: Tensor) -> Tensor:
    """Return ‖x‖₂ over the last axis: in float64, or scaled by the largest entry first.

    Otherwise a float32 vector of 1e-25 would get the norm 0, and one of 1e20 the norm inf, though
    the vector and its norm are both representable (eq. 10).
    """
    if x.dtype in NARROW:
        return torch.linalg.vector_norm(x, dim=-1, dtype=torch.float64).to(x.dtype)
    largest = x.abs().amax(-1)
    scale = torch.where((largest > 0) & largest.isfinite(), largest, 1)
    return torch.linalg.vector_norm(x / scale[..., None], dim=-1) * scale
