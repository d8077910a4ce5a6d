"""The LSTM with peepholes: its gates see the cell state c as well as h."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .base import GatedWeights
from .factors import Factors

if TYPE_CHECKING:
    from ..tape import Tape

__all__ = ["PeepholeLSTM"]


class PeepholeLSTM(GatedWeights):
    """The LSTM of Gers and Schmidhuber (2000), whose gates see the cell state (eq. 1, 4, 9).

    With (a_i, a_f, a_g, a_o) = W_x x_t + W_h h_{t-1} + b and peepholes p, one number per unit::

        i = σ(a_i + p_i ⊙ c_{t-1})     f = σ(a_f + p_f ⊙ c_{t-1})     g = tanh(a_g)
        c_t = f ⊙ c_{t-1} + i ⊙ g      o = σ(a_o + p_o ⊙ c_t)         h_t = o ⊙ tanh(c_t)

    The output gate sees c after the step. Back, with δh, δc the two parts of delta_t::

        α_o = δh tanh(c_t) o(1−o)
        δc ← δc + δh ⊙ o ⊙ (1 − tanh² c_t) + p_o ⊙ α_o
        (α_i, α_f, α_g) = (δc g i(1−i),  δc c_{t-1} f(1−f),  δc i (1−g²))
        delta_{t-1} = (W_hᵀ α,  δc ⊙ f + p_i ⊙ α_i + p_f ⊙ α_f)
        dE/dp = Σ_t (α_i c_{t-1},  α_f c_{t-1},  α_o c_t)

    This is the exact gradient; the paper's own training cut it at the gates.

    Shapes:
        s_t = (h_t, c_t) (B, 2H); A = 4H; ``weight_ch`` (3, H) holds p_i, p_f, p_o.

    Cost:
        per step: 8·B·H² operations forward and the same back; keeps 6·B·H values.

    Source:
        Gers and Schmidhuber (2000), "Recurrent nets that time and count".

    Example:
        >>> cell = PeepholeLSTM(3, 5)
        >>> s, saved = cell.step(cell.drive(torch.zeros(1, 2, 3))[0], torch.zeros(2, 10))
        >>> s.shape
        torch.Size([2, 10])
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
        """Draw every weight from U(−1/√H, 1/√H), including the peepholes.

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
        spread = 1 / math.sqrt(hidden_size)
        peepholes = torch.empty(3, hidden_size, device=device, dtype=dtype)
        self.weight_ch = nn.Parameter(peepholes.uniform_(-spread, spread))

    def _take_sizes(self) -> None:
        super()._take_sizes()
        self.state_size = 2 * self.hidden_size

    def step(self, a_t: Tensor, s_prev: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return s_t = (h_t, c_t) from a_t and s_{t-1}."""
        h_prev, c_prev = s_prev.chunk(2, 1)
        p_i, p_f, p_o = self.weight_ch
        a_i, a_f, a_g, a_o = torch.addmm(a_t, h_prev, self.weight_hh.T).chunk(4, 1)
        i, f, g = (a_i + p_i * c_prev).sigmoid(), (a_f + p_f * c_prev).sigmoid(), a_g.tanh()
        c = f * c_prev + i * g
        o = (a_o + p_o * c).sigmoid()
        s = torch.cat((o * c.tanh(), c), 1)
        return s, (torch.cat((i, f, g, o), 1), s_prev, s)

    def vjp(self, saved: tuple[Tensor, ...], delta: Tensor) -> tuple[Tensor, Tensor]:
        """Go one step back; c is reached through the output gate's peephole too."""
        gates, s_prev, s = saved
        H = self.hidden_size
        i, f, g, o = gates.chunk(4, 1)
        p_i, p_f, p_o = self.weight_ch
        c_prev, tanh_c = s_prev[:, H:], s[:, H:].tanh()
        delta_h, delta_c = delta[..., :H], delta[..., H:]
        alpha_o = delta_h * (tanh_c * o * (1 - o))
        delta_c = delta_c + delta_h * (o * (1 - tanh_c * tanh_c)) + alpha_o * p_o
        alpha_i = delta_c * (g * i * (1 - i))
        alpha_f = delta_c * (c_prev * f * (1 - f))
        adjoint = torch.cat((alpha_i, alpha_f, delta_c * (i * (1 - g * g)), alpha_o), -1)
        through_c = delta_c * f + alpha_i * p_i + alpha_f * p_f
        return torch.cat((adjoint @ self.weight_hh, through_c), -1), adjoint

    def factors(self, tape: Tape) -> Factors:
        """Return the factors of all steps: the peepholes are more ways through c."""
        gates, s_prev, s = tape.saved
        H = self.hidden_size
        i, f, g, o = gates.chunk(4, -1)
        p_i, p_f, p_o = self.weight_ch
        c_prev, tanh_c = s_prev[..., H:], s[..., H:].tanh()
        of_i, of_f, of_o = g * i * (1 - i), c_prev * f * (1 - f), tanh_c * o * (1 - o)
        return Factors(
            torch.cat((of_i, of_f, i * (1 - g * g), of_o), -1),
            self.weight_hh,
            carry=f + of_i * p_i + of_f * p_f,
            through=o * (1 - tanh_c * tanh_c) + of_o * p_o,
        )

    def param_grads(self, tape: Tape, adjoints: Tensor) -> dict[str, Tensor]:
        """Return all weights' gradients: one GEMM per matrix, a sum for the peepholes (eq. 5)."""
        H = self.hidden_size
        alpha_i, alpha_f, _, alpha_o = adjoints.chunk(4, -1)
        c_prev, c = tape.s_prev()[..., H:], tape.s[1:, :, H:]
        terms = torch.stack((alpha_i * c_prev, alpha_f * c_prev, alpha_o * c))
        return {**super().param_grads(tape, adjoints), "weight_ch": terms.sum((1, 2))}
