"""The LSTM with refine gates: one effective gate, tied, that learns well near 0 and 1."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .base import GatedWeights
from .factors import Factors

if TYPE_CHECKING:
    from ..tape import Tape

__all__ = ["RefineLSTM"]


class RefineLSTM(GatedWeights):
    """The UR-LSTM of Gu et al. (2020): a forget gate f moved by a refine gate r (eq. 1, 4, 9).

    With (a_r, a_f, a_n, a_o) = W_x x_t + W_h h_{t-1} + b and r, f, o = σ(a), n = tanh(a_n)::

        g = r (1 − (1−f)²) + (1−r) f² = 2 r f + (1 − 2r) f²
        c_t = g ⊙ c_{t-1} + (1 − g) ⊙ n           h_t = o ⊙ tanh(c_t)

    g lies within f(1 − f) of f, above it where r > ½ and below it where r < ½: near 1 it can come
    as close to 1 as (1 − f)², where σ alone would have to saturate. Back, with δh, δc the two parts
    of delta_t::

        δc ← δc + δh ⊙ o ⊙ (1 − tanh² c_t)        γ = δc ⊙ (c_{t-1} − n)
        α_r = γ 2 f(1−f) r(1−r)                   α_f = γ (2r + 2(1 − 2r) f) f(1−f)
        α_n = δc (1−g)(1−n²)                      α_o = δh tanh(c_t) o(1−o)
        delta_{t-1} = (W_hᵀ α,  δc ⊙ g)

    The biases begin as the paper's do (uniform gate initialisation): with u ~ U(1/H, 1 − 1/H) for
    each unit, b_f = ln(u/(1 − u)) and b_r = −b_f, so that f begins as u: memories of every length
    from one step to about H. With fewer than 3 units, or without biases, there is no such range.

    Shapes:
        s_t = (h_t, c_t) (B, 2H); A = 4H, in the order r, f, n, o.

    Cost:
        per step: 8·B·H² operations forward and the same back; keeps 6·B·H values.

    Source:
        Gu, Gulcehre, Paine, Hoffman and Pascanu (2020), "Improving the gating mechanism of
        recurrent neural networks", section 3.

    Example:
        >>> cell = RefineLSTM(3, 50)
        >>> f = (cell.bias_ih + cell.bias_hh)[50:100].sigmoid()
        >>> bool(f.min() > 0.019), bool(f.max() < 0.981)
        (True, True)
        >>> cell.step(cell.drive(torch.zeros(1, 2, 3))[0], torch.zeros(2, 100))[0].shape
        torch.Size([2, 100])
    """

    gates = 4

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Draw the weights as ``torch.nn.LSTM`` does, and the biases of r and f uniformly.

        Args:
            input_size: I.
            hidden_size: H.
            bias: whether there are biases.
            device: where the weights live.
            dtype: of the weights.

        Raises:
            InputValueError: a size below 1.
        """
        super().__init__(input_size, hidden_size, bias=bias, device=device, dtype=dtype)
        H = hidden_size
        if self.bias_ih is None or self.bias_hh is None or H < 3:
            return
        u = torch.rand(H, device=self.bias_ih.device, dtype=torch.float64)
        b = torch.logit(u * (1 - 2 / H) + 1 / H).to(self.bias_ih.dtype)
        with torch.no_grad():
            self.bias_ih[: 2 * H] = torch.cat((-b, b))
            self.bias_hh[: 2 * H] = 0

    def _take_sizes(self) -> None:
        super()._take_sizes()
        self.state_size = 2 * self.hidden_size

    def parts(self) -> tuple[int, ...]:
        """Return the widths of h and c."""
        return (self.hidden_size, self.hidden_size)

    def step(self, a_t: Tensor, s_prev: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return s_t = (h_t, c_t) from a_t and s_{t-1}."""
        h_prev, c_prev = s_prev.chunk(2, 1)
        a_r, a_f, a_n, a_o = torch.addmm(a_t, h_prev, self.weight_hh.T).chunk(4, 1)
        r, f, n, o = a_r.sigmoid(), a_f.sigmoid(), a_n.tanh(), a_o.sigmoid()
        c = n + _effective(r, f) * (c_prev - n)
        s = torch.cat((o * c.tanh(), c), 1)
        return s, (torch.cat((r, f, n, o), 1), s_prev, s)

    def kept_widths(self) -> tuple[int, ...]:
        """Return the width of the gates."""
        return (self.preact_size,)

    def with_states(self, tape: Tape) -> tuple[Tensor, ...]:
        """Return what `step` saves: the gates, s_{t-1} and s_t."""
        return (*tape.saved, tape.s_prev(), tape.s[1:])

    def factors(self, tape: Tape) -> Factors:
        """Return the factors of all steps."""
        gates, s_prev, s = tape.saved
        H = self.hidden_size
        r, f, n, o = gates.chunk(4, -1)
        g, tanh_c = _effective(r, f), s[..., H:].tanh()
        moved, slope = s_prev[..., H:] - n, 2 * f * (1 - f)
        by_gate = (
            moved * (slope * r * (1 - r)),
            moved * (slope * (r + (1 - 2 * r) * f)),
            (1 - g) * (1 - n * n),
            tanh_c * o * (1 - o),
        )
        through = o * (1 - tanh_c * tanh_c)
        return Factors(torch.cat(by_gate, -1), self.weight_hh, g, through)

    def vjp(self, saved: tuple[Tensor, ...], delta: Tensor) -> tuple[Tensor, Tensor]:
        """Go one step back."""
        gates, s_prev, s = saved
        H = self.hidden_size
        r, f, n, o = gates.chunk(4, 1)
        g, tanh_c = _effective(r, f), s[:, H:].tanh()
        delta_h, delta_c = delta[..., :H], delta[..., H:]
        delta_c = delta_c + delta_h * (o * (1 - tanh_c * tanh_c))
        gamma, slope = delta_c * (s_prev[:, H:] - n), 2 * f * (1 - f)
        adjoint = torch.cat(
            (
                gamma * (slope * r * (1 - r)),
                gamma * (slope * (r + (1 - 2 * r) * f)),
                delta_c * ((1 - g) * (1 - n * n)),
                delta_h * (tanh_c * o * (1 - o)),
            ),
            -1,
        )
        return torch.cat((adjoint @ self.weight_hh, delta_c * g), -1), adjoint


def _effective(r: Tensor, f: Tensor) -> Tensor:
    """Return g, the gate that f and r make together."""
    return f * (2 * r + (1 - 2 * r) * f)
