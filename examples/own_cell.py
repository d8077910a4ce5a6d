"""A recurrence of your own, two ways: as a plain function, and as a cell with its own adjoint.

The coupled oscillators of Rusch and Mishra (2021) serve as the example: a position h, which is
the layer's output, and a velocity v, so that the state s = (h, v) is twice as wide as h::

    v_t = v_{t-1} + Δ (tanh(W_x x_t + W_h h_{t-1}) − γ h_{t-1} − ε v_{t-1})
    h_t = h_{t-1} + Δ v_t

Run: python examples/own_cell.py
"""

from __future__ import annotations

import torch
from torch import Tensor

import throughtime as tt
from throughtime.cells.base import GatedWeights
from throughtime.testing import check_cell

DT, GAMMA, EPSILON = 0.1, 1.0, 1.0


def oscillator(x_t: Tensor, s: Tensor, W_x: Tensor, W_h: Tensor) -> Tensor:
    """Take one step, the only thing that `Function` needs; autograd gives its adjoint."""
    h, v = s.chunk(2, 1)
    v = v + DT * (torch.tanh(x_t @ W_x.T + h @ W_h.T) - GAMMA * h - EPSILON * v)
    return torch.cat((h + DT * v, v), 1)


class Oscillator(GatedWeights):
    """The same with its adjoint written down: faster, and readable beside its equations.

    With u = tanh(a_t + W_h h_{t-1}), and δh, δv the two parts of delta_t::

        δv ← δv + Δ δh                       adjoint = Δ (1 − u²) ⊙ δv
        delta_{t-1} = (δh − Δ γ δv + W_hᵀ adjoint,  (1 − Δ ε) δv)
    """

    gates = 1

    def _take_sizes(self) -> None:
        super()._take_sizes()
        self.state_size = 2 * self.hidden_size

    def step(self, a_t: Tensor, s_prev: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return s_t = (h_t, v_t); u is what the backward pass needs."""
        h, v = s_prev.chunk(2, 1)
        u = torch.tanh(torch.addmm(a_t, h, self.weight_hh.T))
        v = v + DT * (u - GAMMA * h - EPSILON * v)
        return torch.cat((h + DT * v, v), 1), (u,)

    def vjp(self, saved: tuple[Tensor, ...], delta: Tensor) -> tuple[Tensor, Tensor]:
        """Go one step back; weight gradients follow from the adjoint and are inherited."""
        (u,) = saved
        delta_h, delta_v = delta.chunk(2, -1)
        delta_v = delta_v + DT * delta_h
        adjoint = delta_v * (DT * (1 - u * u))
        delta_h = delta_h - DT * GAMMA * delta_v + adjoint @ self.weight_hh
        return torch.cat((delta_h, (1 - DT * EPSILON) * delta_v), -1), adjoint


def main() -> None:
    """Run both on the same weights, and look how far their gradient reaches."""
    torch.manual_seed(0)
    I, H, T = 3, 16, 100
    cell = Oscillator(I, H, bias=False)
    check_cell(cell)
    print("Oscillator: its adjoint, Jacobian and weight gradients agree with autograd.")

    weights = {"W_x": cell.weight_ih.detach(), "W_h": cell.weight_hh.detach()}
    function = tt.cells.Function(oscillator, I, H, state_size=2 * H, weights=weights)

    x = torch.randn(T, 2, I)
    reach = {}
    for name, layer in (
        ("Oscillator", tt.Recurrent(cell)),
        ("Function", tt.Recurrent(function)),
        ("tanh RNN", tt.RNN(I, H)),
    ):
        with tt.trace(layer) as trace:
            loss = layer(x)[0][-1].pow(2).mean()
        reach[name] = trace.flow(loss)["l0"].horizon()
        print(f"{name}: a typical gradient keeps 1 % of its size over {reach[name]} of {T} steps.")
    assert reach["Oscillator"] == reach["Function"] > reach["tanh RNN"]


if __name__ == "__main__":
    main()
