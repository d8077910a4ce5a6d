"""Clipping: the finished gradient scaled down to a norm."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from ...errors import InputValueError

__all__ = ["clip_gradient_"]


def clip_gradient_(parameters: Iterable[Tensor], most: float) -> float:
    """Scale gradients so that their common norm is at most ``most``: G ← G·min(1, most/‖G‖₂).

    The norm is taken in float64. In float32, where `torch.nn.utils.clip_grad_norm_` takes it, the
    squares of a finite gradient overflow from about 1e19 on: the norm is inf, the factor 0, and
    the network stands still without a word. A gradient that is itself inf or NaN cannot be scaled
    (inf·0 is NaN) and is left as it is: look at what is returned.

    Args:
        parameters: whose ``.grad`` is scaled; those without one are passed over.
        most: the norm, above 0; inf measures only.

    Returns:
        The norm before; inf or NaN where the gradient is not finite.

    Raises:
        InputValueError: ``most`` is not above 0.

    Cost:
        two passes over the gradients.

    Source:
        Pascanu, Mikolov and Bengio (2013), algorithm 1.

    Example:
        >>> w = torch.zeros(2, requires_grad=True); w.grad = torch.tensor([3e30, 4e30])
        >>> norm = clip_gradient_([w], 1.0)
        >>> f"{norm:.0e}", [round(g, 3) for g in w.grad.tolist()]
        ('5e+30', [0.6, 0.8])
    """
    if not most > 0:
        raise InputValueError(f"most must be above 0; got {most}.")
    grads = [p.grad for p in parameters if p.grad is not None]
    if not grads:
        return 0.0
    squares = [torch.linalg.vector_norm(g, dtype=torch.float64) for g in grads]
    norm = float(torch.linalg.vector_norm(torch.stack([s.to("cpu") for s in squares])))
    if math.isfinite(norm) and norm > most:
        for grad in grads:
            grad.mul_(most / norm)
    return norm
