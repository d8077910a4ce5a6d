"""Clipping: the finished gradient scaled down to a norm."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Real

import torch
from torch import Tensor

from ..errors import InputTypeError, InputValueError

__all__ = ["clip_gradient_"]


def clip_gradient_(parameters: Tensor | Iterable[Tensor], most: float) -> float:
    """Scale gradients so that their common norm is at most ``most``: G ← G·min(1, most/‖G‖₂).

    The norm is taken in float64, of the entries divided by the largest. In float32, where
    `torch.nn.utils.clip_grad_norm_` takes it, the squares of a finite gradient overflow from about
    1e19 on: the norm is inf, the factor 0, and the network stands still without a word. A gradient
    that is itself inf or NaN cannot be scaled (inf·0 is NaN) and is left as it is: look at what is
    returned.

    Args:
        parameters: whose ``.grad`` is scaled, or one such tensor; those without one are passed
            over. Sparse gradients stay sparse.
        most: the norm, above 0; inf measures only.

    Returns:
        The norm before; inf or NaN where the gradient is not finite.

    Raises:
        InputValueError: ``most`` is not above 0.
        InputTypeError: ``most`` is no number, or ``parameters`` hold something else than tensors.

    Cost:
        three passes over the gradients.

    Source:
        Pascanu, Mikolov and Bengio (2013), algorithm 1.

    Example:
        >>> w = torch.zeros(2, requires_grad=True); w.grad = torch.tensor([3e30, 4e30])
        >>> norm = clip_gradient_([w], 1.0)
        >>> f"{norm:.0e}", [round(g, 3) for g in w.grad.tolist()]
        ('5e+30', [0.6, 0.8])
    """
    number = isinstance(most, Real) and not isinstance(most, bool)
    if not number or not most > 0:
        raise (InputValueError if number else InputTypeError)(
            f"most must be a number above 0; got {most!r}."
        )
    each = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    for one in each:
        if not isinstance(one, Tensor):
            raise InputTypeError(
                f"parameters must be tensors, such as model.parameters(); got {type(one).__name__}."
            )
    grads = [p.grad for p in each if p.grad is not None]
    values = [_values(grad) for grad in grads]
    values = [v for v in values if v.numel()]
    if not values:
        return 0.0
    largest = max(float(v.abs().max()) for v in values)
    if any(bool(v.isnan().any()) for v in values):
        return math.nan
    if largest == 0 or not math.isfinite(largest):
        return largest
    parts = [float(torch.linalg.vector_norm(_wide(v) / largest)) for v in values]
    norm = largest * math.hypot(*parts)
    if norm > most:
        factor = most / norm
        for grad in grads:
            if factor > 1e-30:
                grad.mul_(factor)
            else:  # in two steps: the factor may underflow where the product does not
                grad.div_(largest).mul_(most / math.hypot(*parts))
    return norm


def _values(grad: Tensor) -> Tensor:
    """Return the entries of a gradient; of a sparse one those that are there, each once."""
    if grad.layout == torch.sparse_coo:
        return grad.coalesce().values()
    return grad if grad.layout == torch.strided else grad.values()


def _wide(values: Tensor) -> Tensor:
    return values.to(torch.complex128 if values.is_complex() else torch.float64)
