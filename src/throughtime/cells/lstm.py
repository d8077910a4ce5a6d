"""The LSTM cell, in PyTorch's gate order i, f, g, o, with an optional projection of h."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..errors import InputValueError
from .base import GatedWeights, set_plain
from .factors import Factors

if TYPE_CHECKING:
    from ..tape import Tape

__all__ = ["LSTM"]


class LSTM(GatedWeights):
    """The LSTM of Hochreiter and Schmidhuber (1997) with a forget gate (eq. 1, 4, 9).

    With (a_i, a_f, a_g, a_o) = W_x x_t + W_h h_{t-1} + b and i, f, o = σ(a), g = tanh(a_g)::

        c_t = f ⊙ c_{t-1} + i ⊙ g          h_t = o ⊙ tanh(c_t)      (projected: W_r (o ⊙ tanh c_t))

    and back, with δh, δc the two parts of delta_t::

        δc ← δc + δh ⊙ o ⊙ (1 − tanh² c_t)
        α = (δc g i(1−i),  δc c_{t-1} f(1−f),  δc i (1−g²),  δh tanh(c_t) o(1−o))
        delta_{t-1} = (W_hᵀ α,  δc ⊙ f)

    Shapes:
        s_t = (h_t, c_t) (B, 2H); A = 4H. With ``proj_size`` P: h (B, P), s (B, P+H).

    Cost:
        per step: 8·B·H² operations forward and the same back; keeps 6·B·H values.

    Source:
        Gers, Schmidhuber and Cummins (2000); Sak, Senior and Beaufays (2014) for the projection.

    Example:
        >>> cell = LSTM(3, 5)
        >>> s, saved = cell.step(cell.drive(torch.zeros(1, 2, 3))[0], torch.zeros(2, 10))
        >>> s.shape
        torch.Size([2, 10])
    """

    gates = 4
    weight_hr: Tensor
    cell_size: int
    projected: bool

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        bias: bool = True,
        proj_size: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Draw the weights as ``torch.nn.LSTM`` does.

        Args:
            input_size: I.
            hidden_size: H, the width of c.
            bias: whether there are biases.
            proj_size: width of h; 0 for H, without a projection.
            device: where the weights live.
            dtype: of the weights.

        Raises:
            InputValueError: a size below 1, or ``proj_size`` not below ``hidden_size``.
        """
        super().__init__(input_size, hidden_size, bias=bias, device=device, dtype=dtype)
        if not 0 <= proj_size < hidden_size:
            raise InputValueError(
                f"proj_size must be at least 0 and below hidden_size={hidden_size}; "
                f"got {proj_size}."
            )
        if proj_size:
            spread = 1 / math.sqrt(hidden_size)
            like = {"device": device, "dtype": dtype}
            for name, shape in (
                ("weight_hh", (4 * hidden_size, proj_size)),
                ("weight_hr", (proj_size, hidden_size)),
            ):
                weight = torch.empty(shape, **like).uniform_(-spread, spread)
                setattr(self, name, nn.Parameter(weight))
            self._take_sizes()

    def _take_sizes(self) -> None:
        super()._take_sizes()
        size = self.preact_size // 4
        set_plain(
            self,
            cell_size=size,
            state_size=self.hidden_size + size,
            projected="weight_hr" in self._parameters,
        )

    def parts(self) -> tuple[int, ...]:
        """Return the widths of h and c."""
        return (self.hidden_size, self.cell_size)

    def step(self, a_t: Tensor, s_prev: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return s_t = (h_t, c_t) from a_t and s_{t-1}."""
        H = self.hidden_size
        a = torch.addmm(a_t, s_prev[:, :H], self.weight_hh.T)
        a_i, a_f, a_g, a_o = a.chunk(4, 1)
        i, f, g, o = a_i.sigmoid(), a_f.sigmoid(), a_g.tanh(), a_o.sigmoid()
        c = f * s_prev[:, H:] + i * g
        h = o * c.tanh()
        if self.projected:
            h = h @ self.weight_hr.T
        s = torch.cat((h, c), 1)
        return s, (torch.cat((i, f, g, o), 1), s_prev, s)

    def kept_widths(self) -> tuple[int, ...]:
        """Return the width of the gates."""
        return (self.preact_size,)

    def with_states(self, tape: Tape) -> tuple[Tensor, ...]:
        """Return what `step` saves: the gates, s_{t-1} and s_t."""
        return (*tape.saved, tape.s_prev(), tape.s[1:])

    def vjp(self, saved: tuple[Tensor, ...], delta: Tensor) -> tuple[Tensor, Tensor]:
        """Go one step back; with a projection the adjoint also carries δh (V, B, P)."""
        return self._back(self._factors(saved), delta)

    def swept(self, tape: Tape) -> Callable[[int, Tensor], tuple[Tensor, Tensor]]:
        """Return `vjp` by step; six operations are left of it."""
        if type(self).vjp is not LSTM.vjp:
            return super().swept(tape)
        each = list(zip(*self._factors(tape.saved), strict=True))
        return lambda t, delta: self._back(each[t - 1], delta)

    @property
    def has_factors(self) -> bool:
        """Whether `factors` returns any; with a projection they are of another form."""
        return super().has_factors and not self.projected

    def factors(self, tape: Tape) -> Factors | None:
        """Return the factors of all steps."""
        if not self.has_factors:
            return None
        through_m, by_gate, f = self._factors(tape.saved)
        return Factors(by_gate, self.weight_hh, f, through_m)

    def _factors(self, saved: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Return ∂c/∂m (..., H), ∂(c, c, c, m)/∂a by gate (..., 4H) and ∂c_t/∂c_{t-1} (..., H)."""
        gates, s_prev, s = saved
        H = self.hidden_size
        i, f, g, o = gates.chunk(4, -1)
        tanh_c = s[..., H:].tanh()
        by_gate = torch.cat(
            (
                g * i * (1 - i),
                s_prev[..., H:] * f * (1 - f),
                i * (1 - g * g),
                tanh_c * o * (1 - o),
            ),
            -1,
        )
        return o * (1 - tanh_c * tanh_c), by_gate, f

    def _back(self, factors: tuple[Tensor, ...], delta: Tensor) -> tuple[Tensor, Tensor]:
        through_m, by_gate, f = factors
        H = self.hidden_size
        delta_h, delta_c = delta[..., :H], delta[..., H:]
        delta_m = delta_h @ self.weight_hr if self.projected else delta_h
        delta_c = torch.addcmul(delta_c, delta_m, through_m)
        adjoint = torch.cat((delta_c, delta_c, delta_c, delta_m), -1) * by_gate
        delta_prev = torch.cat((adjoint @ self.weight_hh, delta_c * f), -1)
        return delta_prev, torch.cat((adjoint, delta_h), -1) if self.projected else adjoint

    def param_grads(self, tape: Tape, adjoints: Tensor) -> dict[str, Tensor]:
        """Return the gradients of all weights, one GEMM per weight (eq. 5)."""
        grads = super().param_grads(tape, adjoints)
        if self.projected:
            gates, _, s = tape.saved
            unprojected = gates[..., 3 * self.cell_size :] * s[..., self.hidden_size :].tanh()
            delta_h = adjoints[..., self.preact_size :]
            grads["weight_hr"] = delta_h.flatten(0, 1).T @ unprojected.flatten(0, 1)
        return grads
