"""A step back as products with factors that do not depend on delta: the form of gated cells."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Factors"]


class Factors(NamedTuple):
    """What a step back multiplies, for all steps at once (eq. 9).

    Of a state of one part, with delta of width H, the gates numbered k::

        α_k = delta ⊙ by_gate_k          delta_{t-1} = W_hᵀ α + delta ⊙ carry

    and of two, h and c::

        δc ← δc + δh ⊙ through           α_k = δc ⊙ by_gate_k, of the last gate δh ⊙ by_gate_k
        delta_{t-1} = (W_hᵀ α,  δc ⊙ carry)

    Attributes:
        by_gate: (T, B, A), the gates one after the other.
        weight: W_h (A, H); None where the gates do not see h_{t-1}.
        carry: (T, B, H); None where nothing goes past the gates.
        through: (T, B, H); None where the state has one part.
        hidden: (T, B, H), what the last gate's adjoint is multiplied by before W_h; None for 1.
        stops: whether nothing passes where by_gate is 0, not even inf and NaN.
    """

    by_gate: Tensor
    weight: Tensor | None
    carry: Tensor | None = None
    through: Tensor | None = None
    hidden: Tensor | None = None
    stops: bool = False

    def back(self, t: int, delta: Tensor) -> tuple[Tensor, Tensor]:
        """Go back through step t, as the cell's ``vjp`` does, by the products above.

        Args:
            t: the step, from 1.
            delta: dE/ds_t of V losses, (V, B, S).
        """
        T, B, _ = self.by_gate.shape
        H = delta.shape[-1] if self.through is None else delta.shape[-1] // 2
        of = self.by_gate.view(T, B, -1, H)[t - 1]
        h, c = delta[..., :H], delta[..., H:]
        d = h if self.through is None else c + h * self.through[t - 1]
        alpha = torch.cat((d[..., None, :] * of[:, :-1], (h[..., None, :] * of[:, -1:])), -2)
        if self.stops:
            alpha = torch.where(of == 0, 0, alpha)
        hidden = alpha.clone()
        if self.hidden is not None:
            hidden[..., -1, :] *= self.hidden[t - 1]
        sent = torch.zeros_like(h) if self.weight is None else hidden.flatten(-2) @ self.weight
        past = torch.zeros_like(d) if self.carry is None else d * self.carry[t - 1]
        parts = (sent + past,) if self.through is None else (sent, past)
        return torch.cat(parts, -1), alpha.flatten(-2)
