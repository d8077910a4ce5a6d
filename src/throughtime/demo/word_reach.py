"""How much of a loss's gradient reaches a word so many steps back, and what the bounds allow."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import UnsupportedError
from ..flow import Flow, LayerFlow, trace

__all__ = ["ByLag", "bounds", "follow", "relative_norm"]


@dataclass(frozen=True)
class ByLag:
    """Truth and bounds of ‖∂s_T/∂s_{T−ℓ}‖₂ at each lag ℓ, medians over the rows (eq. 7).

    Attributes:
        truth: largest singular value of the Jacobians' product.
        tight: product of the Jacobians' largest singular values.
        loose: (β_W β_f)^ℓ; None for a cell that has no such constants.
        gain: β_W β_f; None likewise.
    """

    truth: list[float]
    tight: list[float]
    loose: list[float] | None
    gain: float | None


def follow(model: nn.Module, x: Tensor, y: Tensor, dtype: torch.dtype = torch.float64) -> Flow:
    """Trace the cross entropy of a model's last answer, summed over the rows.

    The model is copied to ``dtype``: float64 tells a small gradient from none, float32 shows what
    training gets to see.

    Args:
        model: returns logits (B, N) for x (T, B).
        x: symbol numbers (T, B).
        y: answers (B,).
        dtype: to measure in.
    """
    twin = copy.deepcopy(model).to(dtype)
    with torch.enable_grad(), trace(twin) as watched:
        loss = nn.functional.cross_entropy(twin(x), y, reduction="sum")
    return watched.flow(loss)


def relative_norm(
    model: nn.Module, x: Tensor, y: Tensor, step: int, dtype: torch.dtype = torch.float64
) -> float:
    """Return ‖dE/ds_k‖/‖dE/ds_T‖ for k = ``step``, the median over rows (eq. 9).

    Args:
        model: with one recurrent layer; returns logits (B, N) for x (T, B).
        x: symbol numbers (T, B).
        y: answers (B,).
        step: k, where what the answer needs was read.
        dtype: to measure in.
    """
    (layer,) = follow(model, x, y, dtype).values()
    return float((layer.total_norms[step] / layer.total_norms[-1]).median())


def bounds(layer: LayerFlow, longest: int) -> ByLag:
    """Hold the Jacobians' product against both bounds, lag by lag, from the last step (eq. 4, 7).

    Args:
        layer: from a flow; the rows all end at its last step.
        longest: the last lag.

    Cost:
        two singular value decompositions of (B, S, S) a lag.
    """
    T = layer.T
    product = torch.eye(layer.S, dtype=layer.norms.dtype).expand(layer.B, -1, -1)
    truth, tight = [1.0], [1.0]
    allowed = torch.ones(layer.B, dtype=layer.norms.dtype)
    for lag in range(1, longest + 1):
        jacobian = layer.jacobian(T - lag + 1)
        product = product @ jacobian
        allowed = allowed * torch.linalg.matrix_norm(jacobian, 2)
        truth.append(float(torch.linalg.matrix_norm(product, 2).median()))
        tight.append(float(allowed.median()))
    try:
        gain = float(layer.bound(T, T - 1)[0])
        loose = [float(layer.bound(T, T - lag)[0]) for lag in range(longest + 1)]
    except UnsupportedError:
        gain = loose = None
    return ByLag(truth, tight, loose, gain)
