"""The 2-norm of vectors whose squares may leave the floating-point range."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["vector_norm"]


def vector_norm(x: Tensor) -> Tensor:
    """Return ‖x‖₂ over the last axis, scaled by the largest entry first.

    Without the scaling a float32 vector of 1e-25 would get the norm 0, and one of 1e20 the norm
    inf, though the vector and its norm are both representable (eq. 10).
    """
    largest = x.abs().amax(-1)
    scale = torch.where((largest > 0) & largest.isfinite(), largest, 1)
    return torch.linalg.vector_norm(x / scale[..., None], dim=-1) * scale
