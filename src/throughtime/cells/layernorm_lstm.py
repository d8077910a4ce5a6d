"""The LSTM with layer normalisation of its pre-activations and of its cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .base import GatedWeights

if TYPE_CHECKING:
    from ..tape import Tape

__all__ = ["LayerNormLSTM"]


class LayerNormLSTM(GatedWeights):
    """The layer-normalised LSTM of Ba, Kiros and Hinton (2016), gates i, f, g, o (eq. 1, 4, 9).

    N(v) = (v − mean v) / √(var v + ε) over the entries of v, each row by itself. With gains γ
    and biases b, where u = W_x x_t and w = W_h h_{t-1} are normalised over all four gates at once::

        (a_i, a_f, a_g, a_o) = γ_x ⊙ N(u) + b_x + γ_h ⊙ N(w) + b_h
        i, f, o = σ(a), g = tanh(a_g)           c_t = f ⊙ c_{t-1} + i ⊙ g
        m = γ_c ⊙ N(c_t) + b_c                  h_t = o ⊙ tanh(m)

    and back, N′ being the transposed Jacobian of N, ρ = 1/√(var v + ε), v̂ = N(v)::

        N′(v) y = ρ (y − mean(y) − v̂ mean(y ⊙ v̂))
        μ = δh ⊙ o ⊙ (1 − tanh² m)              δc ← δc + N′(c_t) (γ_c ⊙ μ)
        α = (δc g i(1−i),  δc c_{t-1} f(1−f),  δc i (1−g²),  δh tanh(m) o(1−o))
        υ = N′(u) (γ_x ⊙ α)                     ω = N′(w) (γ_h ⊙ α)
        delta_{t-1} = (W_hᵀ ω,  δc ⊙ f)
        dE/dγ_x = Σ α ⊙ û,  dE/dγ_h = Σ α ⊙ ŵ,  dE/dγ_c = Σ μ ⊙ ĉ

    The contract's a_t is u, before N, so that `drive` stays linear; its adjoint is υ. Doubling W_h
    halves N′(w): apart from ε, the scale of W_h changes nothing, forward or back. With h_0 = 0 the
    first w is 0 and its ρ is 1/√ε, about 316, by which dE/ds_0 stands out.

    Shapes:
        s_t = (h_t, c_t) (B, 2H); A = 4H; the adjoint carries (υ, α, μ): (V, B, 9H).
        ``gain_ih``, ``gain_hh`` (4H), ``gain_c`` (H), biases alike.

    Cost:
        per step: 8·B·H² operations forward and the same back; keeps 15·B·H values.

    Source:
        Ba, Kiros and Hinton (2016), "Layer normalization", the LSTM of their supplement.

    Example:
        >>> cell = LayerNormLSTM(3, 5)
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
        eps: float = 1e-5,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Draw the matrices as ``torch.nn.LSTM`` does; gains are 1, the biases b_c are 0.

        Args:
            input_size: I.
            hidden_size: H.
            bias: whether there are biases.
            eps: ε, added to each variance.
            device: where the weights live.
            dtype: of the weights.

        Raises:
            InputValueError: a size below 1.
        """
        super().__init__(input_size, hidden_size, bias=bias, device=device, dtype=dtype)
        like = {"device": device, "dtype": dtype}
        self.gain_ih = nn.Parameter(torch.ones(4 * hidden_size, **like))
        self.gain_hh = nn.Parameter(torch.ones(4 * hidden_size, **like))
        self.gain_c = nn.Parameter(torch.ones(hidden_size, **like))
        self.bias_c = nn.Parameter(torch.zeros(hidden_size, **like)) if bias else None
        self.eps = eps

    def _take_sizes(self) -> None:
        super()._take_sizes()
        self.state_size = 2 * self.hidden_size

    def drive(self, x: Tensor) -> Tensor:
        """Return u_t = W_x x_t for all steps in one GEMM; `step` adds N and the biases."""
        return nn.functional.linear(x, self.weight_ih)

    def step(self, a_t: Tensor, s_prev: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return s_t = (h_t, c_t) from u_t and s_{t-1}."""
        h_prev, c_prev = s_prev.chunk(2, 1)
        u_hat, rho_u = _normalised(a_t, self.eps)
        w_hat, rho_w = _normalised(h_prev @ self.weight_hh.T, self.eps)
        a = self.gain_ih * u_hat + self.gain_hh * w_hat
        if self.bias_ih is not None and self.bias_hh is not None:
            a = a + (self.bias_ih + self.bias_hh)
        a_i, a_f, a_g, a_o = a.chunk(4, 1)
        i, f, g, o = a_i.sigmoid(), a_f.sigmoid(), a_g.tanh(), a_o.sigmoid()
        c = f * c_prev + i * g
        c_hat, rho_c = _normalised(c, self.eps)
        s = torch.cat((o * self._tanh_m(c_hat), c), 1)
        rho = torch.cat((rho_u, rho_w, rho_c), 1)
        return s, (torch.cat((i, f, g, o), 1), u_hat, w_hat, c_hat, rho, s_prev)

    def _tanh_m(self, c_hat: Tensor) -> Tensor:
        m = self.gain_c * c_hat
        return (m if self.bias_c is None else m + self.bias_c).tanh()

    def kept_widths(self) -> tuple[int, ...]:
        """Return the widths of the gates, û, ŵ, ĉ and the three ρ."""
        H = self.hidden_size
        return (4 * H, 4 * H, 4 * H, H, 3)

    def with_states(self, tape: Tape) -> tuple[Tensor, ...]:
        """Return what `step` saves: that, and s_{t-1}."""
        return (*tape.saved, tape.s_prev())

    def vjp(self, saved: tuple[Tensor, ...], delta: Tensor) -> tuple[Tensor, Tensor]:
        """Go one step back; of the adjoint (υ, α, μ) the last two serve the gains and biases."""
        gates, u_hat, w_hat, c_hat, rho, s_prev = saved
        H = self.hidden_size
        i, f, g, o = gates.chunk(4, 1)
        rho_u, rho_w, rho_c = rho.split(1, 1)
        tanh_m = self._tanh_m(c_hat)
        delta_h, delta_c = delta[..., :H], delta[..., H:]
        mu = delta_h * (o * (1 - tanh_m * tanh_m))
        delta_c = delta_c + _back(mu * self.gain_c, c_hat, rho_c)
        alpha = torch.cat(
            (
                delta_c * (g * i * (1 - i)),
                delta_c * (s_prev[:, H:] * f * (1 - f)),
                delta_c * (i * (1 - g * g)),
                delta_h * (tanh_m * o * (1 - o)),
            ),
            -1,
        )
        upsilon = _back(alpha * self.gain_ih, u_hat, rho_u)
        omega = _back(alpha * self.gain_hh, w_hat, rho_w)
        delta_prev = torch.cat((omega @ self.weight_hh, delta_c * f), -1)
        return delta_prev, torch.cat((upsilon, alpha, mu), -1)

    def param_grads(self, tape: Tape, adjoints: Tensor) -> dict[str, Tensor]:
        """Return the gradients of all weights: one GEMM per matrix, sums for the rest (eq. 5).

        ω is computed again from α, which costs less than keeping both.
        """
        _, u_hat, w_hat, c_hat, rho, _ = tape.saved
        H = self.hidden_size
        upsilon, alpha, mu = adjoints.split((4 * H, 4 * H, H), -1)
        omega = _back(alpha * self.gain_hh, w_hat, rho[..., 1:2])
        grads = self._grads(tape, upsilon.flatten(0, 1), omega.flatten(0, 1))
        grads["gain_ih"] = (alpha * u_hat).sum((0, 1))
        grads["gain_hh"] = (alpha * w_hat).sum((0, 1))
        grads["gain_c"] = (mu * c_hat).sum((0, 1))
        if self.bias_c is not None:
            grads["bias_ih"] = alpha.sum((0, 1))
            grads["bias_hh"] = grads["bias_ih"].clone()
            grads["bias_c"] = mu.sum((0, 1))
        return grads


def _normalised(v: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return v̂ = N(v) and ρ: (B, n) → (B, n), (B, 1)."""
    centred = v - v.mean(-1, keepdim=True)
    rho = torch.rsqrt((centred * centred).mean(-1, keepdim=True) + eps)
    return centred * rho, rho


def _back(y: Tensor, v_hat: Tensor, rho: Tensor) -> Tensor:
    """Return N′(v) y from v̂ and ρ."""
    mean, along = y.mean(-1, keepdim=True), (y * v_hat).mean(-1, keepdim=True)
    return rho * (y - mean - v_hat * along)
