"""A recurrence of your own, two ways: as a plain function, and as a cell with its own adjoint.

The leaky unit h_t = h_{t-1} + γ (tanh(W_x x_t + W_h h_{t-1}) − h_{t-1}) serves as the example.

Run: python examples/own_cell.py
"""

from __future__ import annotations

import torch
from torch import Tensor

import throughtime as tt
from throughtime.cells.base import GatedWeights
from throughtime.testing import check_cell

GAMMA = 0.1


def leaky(x_t: Tensor, h: Tensor, W_x: Tensor, W_h: Tensor) -> Tensor:
    """Take one step, the only thing that `Function` needs; autograd gives its adjoint."""
    return h + GAMMA * (torch.tanh(x_t @ W_x.T + h @ W_h.T) - h)


class Leaky(GatedWeights):
    """The same with its adjoint written down: faster, and readable beside its equations.

    With u = tanh(a_t + W_h h_{t-1}) and h_t = (1 − γ) h_{t-1} + γ u::

        adjoint = γ (1 − u²) ⊙ delta          delta_{t-1} = (1 − γ) delta + W_hᵀ adjoint
    """

    gates = 1

    def step(self, a_t: Tensor, s_prev: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Give h_t; u is what the way back needs."""
        u = torch.tanh(torch.addmm(a_t, s_prev, self.weight_hh.T))
        return torch.lerp(s_prev, u, GAMMA), (u,)

    def vjp(self, saved: tuple[Tensor, ...], delta: Tensor) -> tuple[Tensor, Tensor]:
        """Go one step back; weight gradients follow from the adjoint and are inherited."""
        (u,) = saved
        adjoint = delta * (GAMMA * (1 - u * u))
        return (1 - GAMMA) * delta + adjoint @ self.weight_hh, adjoint


def main() -> None:
    """Run both on the same weights, and look how far their gradient reaches."""
    torch.manual_seed(0)
    I, H, T = 3, 16, 100
    cell = Leaky(I, H, bias=False)
    check_cell(cell)
    print("Leaky: its adjoint, Jacobian and weight gradients agree with autograd.")

    weights = {"W_x": cell.weight_ih.detach(), "W_h": cell.weight_hh.detach()}
    function = tt.cells.Function(leaky, I, H, weights=weights)

    x = torch.randn(T, 2, I)
    reach = {}
    for name, layer in (
        ("Leaky", tt.Recurrent(cell)),
        ("Function", tt.Recurrent(function)),
        ("tanh RNN", tt.RNN(I, H)),
    ):
        with tt.trace(layer) as trace:
            loss = layer(x)[0][-1].pow(2).mean()
        flow = trace.flow(loss)["l0"]
        reach[name] = flow.horizon()
        print(f"{name}: the gradient falls to 1 % after {reach[name]} steps.")
    assert reach["Leaky"] == reach["Function"] > reach["tanh RNN"]


if __name__ == "__main__":
    main()
