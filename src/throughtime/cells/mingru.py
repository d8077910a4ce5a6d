"""The minimal GRU, whose gates see the input alone: its Jacobian is diagonal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..shapes import check_sizes
from .base import AbstractCell
from .factors import Factors

if TYPE_CHECKING:
    from ..tape import Tape

__all__ = ["MinGRU"]


class MinGRU(AbstractCell):
    """The minGRU of Feng et al. (2024): a gate and a candidate that do not see h_{t-1} (eq. 1).

    With (a_z, a_n) = W_x x_t + b, z = σ(a_z) and the candidate n = a_n (h̃ in the paper)::

        h_t = (1 − z) ⊙ h_{t-1} + z ⊙ n

    and back (eq. 4, 9)::

        α = (delta (n − h_{t-1}) z(1−z),  delta z)          delta_{t-1} = delta ⊙ (1 − z)

    So J_t = diag(1 − z): every unit is a memory of its own, no entry of J_t exceeds 1, and no
    gradient explodes. Both passes are first-order linear recurrences. `affine` returns their
    coefficients, and the sweeps take all steps by one scan.

    Shapes:
        x (T, B, I), a_t (B, 2H), s_t = h_t (B, H): S = H, A = 2H. ``weight_ih`` (2H, I), rows z, n.

    Cost:
        per step: 4·B·H operations forward and 6·B·H back, no matrix product; keeps 3·B·H values.
        ``benchmarks/bench_scan.py`` compares the scan with going step by step.

    Source:
        Feng, Tung, Ahmed, Bengio and Hajimirsadeghi (2024), "Were RNNs all we needed?", the
        version without logarithms.

    Example:
        >>> cell = MinGRU(3, 5)
        >>> s, saved = cell.step(cell.drive(torch.zeros(1, 2, 3))[0], torch.zeros(2, 5))
        >>> s.shape
        torch.Size([2, 5])
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Draw every weight from U(−1/√I, 1/√I), as ``torch.nn.Linear`` does.

        Args:
            input_size: I.
            hidden_size: H.
            bias: whether there is a bias.
            device: where the weights live.
            dtype: of the weights.

        Raises:
            InputTypeError: a size that is no integer.
            InputValueError: a size below 1.
        """
        super().__init__()
        check_sizes(input_size=input_size, hidden_size=hidden_size)
        self.input_size, self.preact_size = input_size, 2 * hidden_size
        self.hidden_size = self.state_size = hidden_size
        spread = 1 / math.sqrt(input_size)

        def draw(*shape: int) -> nn.Parameter:
            weight = torch.empty(*shape, device=device, dtype=dtype)
            return nn.Parameter(weight.uniform_(-spread, spread))

        self.weight_ih = draw(2 * hidden_size, input_size)
        self.bias_ih = draw(2 * hidden_size) if bias else None

    def drive(self, x: Tensor) -> Tensor:
        """Return W_x x_t + b, which is all of a_t: (T, B, I) → (T, B, 2H)."""
        return nn.functional.linear(x, self.weight_ih, self.bias_ih)

    def affine(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """Return d = 1 − z and u = z ⊙ n, which the input alone decides."""
        a_z, n = a.chunk(2, -1)
        z = a_z.sigmoid()
        return 1 - z, z * n

    def step(self, a_t: Tensor, s_prev: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return h_t from a_t and h_{t-1}."""
        a_z, n = a_t.chunk(2, 1)
        z = a_z.sigmoid()
        return s_prev + z * (n - s_prev), (torch.cat((z, n), 1), s_prev)

    def vjp(self, saved: tuple[Tensor, ...], delta: Tensor) -> tuple[Tensor, Tensor]:
        """Go one step back, every unit by itself."""
        gates, h_prev = saved
        z, n = gates.chunk(2, 1)
        adjoint = torch.cat((delta * ((n - h_prev) * z * (1 - z)), delta * z), -1)
        return delta * (1 - z), adjoint

    def factors(self, tape: Tape) -> Factors:
        """Return the factors of all steps; no product is left."""
        gates, h_prev = tape.saved
        z, n = gates.chunk(2, -1)
        return Factors(torch.cat(((n - h_prev) * z * (1 - z), z), -1), None, 1 - z)

    def param_grads(self, tape: Tape, adjoints: Tensor) -> dict[str, Tensor]:
        """Return the gradients of W_x and b, from one GEMM (eq. 5)."""
        flat = adjoints.flatten(0, 1)
        grads = {"weight_ih": flat.T @ tape.x.flatten(0, 1)}
        if self.bias_ih is not None:
            grads["bias_ih"] = flat.sum(0)
        return grads

    def input_grad(self, adjoints: Tensor) -> Tensor:
        """Return dE/dx_t = W_xᵀ dE/da_t: (..., 2H) → (..., I)."""
        return adjoints @ self.weight_ih

    def jacobian(self, saved: tuple[Tensor, ...]) -> Tensor:
        """Return J_t = diag(1 − z), (B, H, H) (eq. 4)."""
        return torch.diag_embed(1 - saved[0][:, : self.hidden_size])
