"""The GRU cell as PyTorch defines it: gates r, z, n; the reset gate acts after the product."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .base import GatedWeights
from .factors import Factors

if TYPE_CHECKING:
    from ..tape import Tape

__all__ = ["GRU"]


class GRU(GatedWeights):
    """The gated recurrent unit of Cho et al. (2014), PyTorch's variant (eq. 1, 4, 9).

    With r, z = σ(W_x x_t + b_ih + W_h h_{t-1} + b_hh), each by its own rows of the weights, and
    q = W_hn h_{t-1} + b_hn::

        n = tanh(W_xn x_t + b_in + r ⊙ q)          h_t = (1 − z) ⊙ n + z ⊙ h_{t-1}

    and back::

        α_n = delta ⊙ (1 − z) ⊙ (1 − n²)
        α = (α_n q r(1−r),  delta (h_{t-1} − n) z(1−z),  α_n)
        delta_{t-1} = delta ⊙ z + W_hᵀ (α_r, α_z, α_n ⊙ r)

    The n gate's adjoint is α_n on the input's side and α_n ⊙ r on the hidden side.

    Shapes:
        s_t = h_t (B, H): S = H; A = 3H.

    Cost:
        per step: 6·B·H² operations forward and the same back; keeps 5·B·H values.

    Source:
        Cho et al. (2014); the variant is that of cuDNN, which ``torch.nn.GRU`` documents.

    Example:
        >>> cell = GRU(3, 5)
        >>> s, saved = cell.step(cell.drive(torch.zeros(1, 2, 3))[0], torch.zeros(2, 5))
        >>> s.shape
        torch.Size([2, 5])
    """

    gates = 3

    def drive(self, x: Tensor) -> Tensor:
        """Return W_x x_t + b_ih + (b_hr, b_hz, 0): b_hn stays inside the reset gate's product."""
        if self.bias_ih is None or self.bias_hh is None:
            return nn.functional.linear(x, self.weight_ih)
        H = self.hidden_size
        bias = self.bias_ih + torch.cat((self.bias_hh[: 2 * H], self.bias_hh.new_zeros(H)))
        return nn.functional.linear(x, self.weight_ih, bias)

    def step(self, a_t: Tensor, s_prev: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return h_t from a_t and h_{t-1}."""
        H = self.hidden_size
        hidden = s_prev @ self.weight_hh.T
        r, z = (a_t[:, : 2 * H] + hidden[:, : 2 * H]).sigmoid().chunk(2, 1)
        q = hidden[:, 2 * H :]
        if self.bias_hh is not None:
            q = q + self.bias_hh[2 * H :]
        n = (a_t[:, 2 * H :] + r * q).tanh()
        h = n + z * (s_prev - n)
        return h, (torch.cat((r, z, n), 1), q, s_prev)

    def kept_widths(self) -> tuple[int, ...]:
        """Return the widths of the gates and of q."""
        return (self.preact_size, self.hidden_size)

    def with_states(self, tape: Tape) -> tuple[Tensor, ...]:
        """Return what `step` saves: the gates, q and h_{t-1}."""
        return (*tape.saved, tape.s_prev())

    def vjp(self, saved: tuple[Tensor, ...], delta: Tensor) -> tuple[Tensor, Tensor]:
        """Go one step back; the adjoint α is that of the input's side (V, B, 3H)."""
        return self._back(self._factors(saved), delta)

    def swept(self, tape: Tape) -> Callable[[int, Tensor], tuple[Tensor, Tensor]]:
        """Return `vjp` by step; four operations are left of it."""
        if type(self).vjp is not GRU.vjp:
            return super().swept(tape)
        each = list(zip(*self._factors(tape.saved), strict=True))
        return lambda t, delta: self._back(each[t - 1], delta)

    def factors(self, tape: Tape) -> Factors:
        """Return the factors of all steps; on the hidden side α_n counts r times."""
        by_gate, hidden_side, z = self._factors(tape.saved)
        r = hidden_side[..., 2 * self.hidden_size :]
        return Factors(by_gate.flatten(-2), self.weight_hh, z, hidden=r)

    def _factors(self, saved: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Return ∂h_t/∂a by gate (..., 3, H), the hidden side's share in it (..., 3H), and z."""
        gates, q, h_prev = saved
        r, z, n = gates.chunk(3, -1)
        of_n = (1 - z) * (1 - n * n)
        of_r = of_n * (q * r * (1 - r))
        of_z = (h_prev - n) * z * (1 - z)
        one = torch.ones_like(r)
        return torch.stack((of_r, of_z, of_n), -2), torch.cat((one, one, r), -1), z

    def _back(self, factors: tuple[Tensor, ...], delta: Tensor) -> tuple[Tensor, Tensor]:
        by_gate, hidden_side, z = factors
        adjoint = (delta.unsqueeze(-2) * by_gate).flatten(-2)
        return torch.addcmul((adjoint * hidden_side) @ self.weight_hh, delta, z), adjoint

    def param_grads(self, tape: Tape, adjoints: Tensor) -> dict[str, Tensor]:
        """Return the gradients of all weights, one GEMM per weight (eq. 5)."""
        H = self.hidden_size
        adjoint_h = adjoints.clone()
        adjoint_h[..., 2 * H :] *= tape.saved[0][..., :H]
        return self._grads(tape, adjoints.flatten(0, 1), adjoint_h.flatten(0, 1))
