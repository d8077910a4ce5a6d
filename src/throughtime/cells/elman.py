"""The Elman cell: h_t = f(W_x x_t + W_h h_{t-1} + b) (eq. 1)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..errors import InputValueError
from .base import GatedWeights
from .factors import Factors

if TYPE_CHECKING:
    from ..tape import Tape

__all__ = ["NONLINEARITIES", "Elman"]


class Nonlinearity(NamedTuple):
    """f; (delta, h) → delta ⊙ f′(a), where h = f(a); and β_f = sup |f′| (eq. 6)."""

    f: Callable[[Tensor], Tensor]
    through: Callable[[Tensor, Tensor], Tensor]
    sup: float


def _through_relu(delta: Tensor, h: Tensor) -> Tensor:
    """Return delta where h > 0, as torch does: a unit that is NaN passes its gradient."""
    return torch.where(h <= 0, 0, delta)


NONLINEARITIES: dict[str, Nonlinearity] = {
    "tanh": Nonlinearity(torch.tanh, lambda delta, h: delta * (1 - h * h), 1.0),
    "relu": Nonlinearity(torch.relu, _through_relu, 1.0),
    "sigmoid": Nonlinearity(torch.sigmoid, lambda delta, h: delta * (h * (1 - h)), 0.25),
    "identity": Nonlinearity(lambda a: a, lambda delta, h: delta, 1.0),
}


class Elman(GatedWeights):
    """The simple recurrent cell of Elman (1990): a_t = W_x x_t + W_h h_{t-1} + b, h_t = f(a_t).

    Its Jacobian is J_t = diag(f′(a_t)) W_h (eq. 4), so β_W = ‖W_h‖₂ and β_f = sup |f′| bound it
    (eq. 6): β_f is 1/4 for the sigmoid, 1 for tanh, relu and identity.

    Shapes:
        x (T, B, I), a_t (B, H), s_t = h_t (B, H): S = A = H.

    Cost:
        per step: 2·B·H² operations forward and the same back; keeps B·H values.

    Source:
        Elman (1990), "Finding structure in time".

    Example:
        >>> cell = Elman(3, 5, nonlinearity="sigmoid")
        >>> s, saved = cell.step(cell.drive(torch.zeros(1, 2, 3))[0], torch.zeros(2, 5))
        >>> s.shape
        torch.Size([2, 5])
    """

    gates = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
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
            nonlinearity: "tanh", "relu", "sigmoid" or "identity".
            bias: whether there are biases.
            device: where the weights live.
            dtype: of the weights.

        Raises:
            InputValueError: another nonlinearity, or a size below 1.
        """
        check_nonlinearity(nonlinearity)
        super().__init__(input_size, hidden_size, bias=bias, device=device, dtype=dtype)
        self.nonlinearity = nonlinearity

    def step(self, a_t: Tensor, s_prev: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return h_t = f(a_t + W_h h_{t-1}) (eq. 1)."""
        h = NONLINEARITIES[self.nonlinearity].f(torch.addmm(a_t, s_prev, self.weight_hh.T))
        return h, (h,)

    def vjp(self, saved: tuple[Tensor, ...], delta: Tensor) -> tuple[Tensor, Tensor]:
        """Return W_hᵀ α and the adjoint α = diag(f′(a_t)) delta (eq. 4, 9)."""
        adjoint = NONLINEARITIES[self.nonlinearity].through(delta, saved[0])
        return adjoint @ self.weight_hh, adjoint

    def factors(self, tape: Tape) -> Factors:
        """Return f′(a_t), through which delta goes."""
        (h,) = tape.saved
        through = NONLINEARITIES[self.nonlinearity].through(torch.ones_like(h), h)
        return Factors(through, self.weight_hh, stops=self.nonlinearity == "relu")

    def kept_widths(self) -> tuple[int, ...]:
        """Return (): the states are enough."""
        return ()

    def with_states(self, tape: Tape) -> tuple[Tensor, ...]:
        """Return what `step` saves: h_t."""
        return (tape.s[1:],)

    def gain(self) -> tuple[float, float]:
        """Return β_W = ‖W_h‖₂ and β_f = sup |f′| (eq. 6); of a W_h with inf or NaN β_W is NaN."""
        W = self.weight_hh.detach().double()
        norm = float(torch.linalg.matrix_norm(W, 2)) if bool(W.isfinite().all()) else math.nan
        return norm, NONLINEARITIES[self.nonlinearity].sup


def check_nonlinearity(name: str) -> None:
    """Raise unless ``name`` is a nonlinearity that the Elman cell has.

    Raises:
        InputValueError: it is not.
    """
    if name not in NONLINEARITIES:
        known = ", ".join(NONLINEARITIES)
        raise InputValueError(f"nonlinearity must be one of {known}; got {name!r}.")
