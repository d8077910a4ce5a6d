"""The leaky cell of neuroscience: h_t = (1 − κ) h_{t-1} + κ f(W_x x_t + W_h h_{t-1} + b)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import InputValueError
from .base import GatedWeights
from .elman import NONLINEARITIES, check_nonlinearity
from .factors import Factors

if TYPE_CHECKING:
    from ..tape import Tape

__all__ = ["Leaky"]


class Leaky(GatedWeights):
    """The leaky, or continuous-time, recurrent cell: firing rates that follow their input (eq. 1).

    It is τ dh/dt = −h + f(W_x x + W_h h + b) in Euler steps of Δt, with κ = Δt/τ, the argument
    ``alpha`` (α is an adjoint here). With u_t = f(a_t), a_t = W_x x_t + W_h h_{t-1} + b::

        h_t = (1 − κ) h_{t-1} + κ u_t

    and back (eq. 4, 9)::

        α = κ f′(a_t) ⊙ delta          delta_{t-1} = (1 − κ) delta + W_hᵀ α

    So J_t = (1 − κ) 1 + κ diag(f′(a_t)) W_h. Without W_h a step multiplies the gradient by exactly
    1 − κ, and it falls to 1/e after about 1/κ = τ/Δt steps.

    Shapes:
        x (T, B, I), a_t (B, H), s_t = h_t (B, H): S = A = H.

    Cost:
        per step: 2·B·H² operations forward and the same back; keeps B·H values.

    Source:
        Jaeger, Lukoševičius, Popovici and Siewert (2007); Yang, Joglekar, Song, Newsome and Wang
        (2019), who train it as a model of cortex.

    Example:
        >>> cell = Leaky(3, 5, alpha=0.1, nonlinearity="relu")
        >>> s, saved = cell.step(cell.drive(torch.zeros(1, 2, 3))[0], torch.zeros(2, 5))
        >>> s.shape
        torch.Size([2, 5])
    """

    gates = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        alpha: float = 0.2,
        nonlinearity: str = "tanh",
        *,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Draw the weights as ``torch.nn.RNN`` does.

        Args:
            input_size: I.
            hidden_size: H.
            alpha: κ = Δt/τ, in (0, 1]; 1 is the Elman cell.
            nonlinearity: "tanh", "relu", "sigmoid" or "identity".
            bias: whether there are biases.
            device: where the weights live.
            dtype: of the weights.

        Raises:
            InputValueError: ``alpha`` outside (0, 1], another nonlinearity, or a size below 1.
        """
        if not 0 < alpha <= 1:
            raise InputValueError(f"alpha must lie in (0, 1]; got {alpha}.")
        check_nonlinearity(nonlinearity)
        super().__init__(input_size, hidden_size, bias=bias, device=device, dtype=dtype)
        self.alpha, self.nonlinearity = alpha, nonlinearity

    def step(self, a_t: Tensor, s_prev: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return h_t, and u_t for the backward pass."""
        u = NONLINEARITIES[self.nonlinearity].f(torch.addmm(a_t, s_prev, self.weight_hh.T))
        return (1 - self.alpha) * s_prev + self.alpha * u, (u,)

    def vjp(self, saved: tuple[Tensor, ...], delta: Tensor) -> tuple[Tensor, Tensor]:
        """Go one step back, past the nonlinearity and through it."""
        adjoint = self.alpha * NONLINEARITIES[self.nonlinearity].through(delta, saved[0])
        return (1 - self.alpha) * delta + adjoint @ self.weight_hh, adjoint

    def factors(self, tape: Tape) -> Factors:
        """Return κ f′(a_t), and what goes past the nonlinearity."""
        (u,) = tape.saved
        through = self.alpha * NONLINEARITIES[self.nonlinearity].through(torch.ones_like(u), u)
        past = torch.full_like(u, 1 - self.alpha)
        return Factors(through, self.weight_hh, past, stops=self.nonlinearity == "relu")
