"""A spiking layer of one's own: a threshold with a borrowed derivative, a state kept in a buffer.

The cell is written as spiking libraries write theirs: its spikes come from a custom
`autograd.Function`, and it keeps its membrane itself. `tt.trace(model, steps=[Leaky])` finds the
state as what a later call reads, and every term comes from autograd.

Run: python examples/spiking_cell.py [report.html]
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn

import throughtime as tt

T, B, H = 40, 4, 16


class Spike(torch.autograd.Function):
    """1 above the threshold, else 0; on the backward pass the slope of a fast sigmoid."""

    @staticmethod
    def forward(ctx: Any, above: Tensor) -> Tensor:
        """Return the spikes."""
        ctx.save_for_backward(above)
        return (above > 0).to(above)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # pyright: ignore
        """Return the borrowed gradient."""
        (above,) = ctx.saved_tensors
        return grad / (1 + 10 * above.abs()) ** 2


class Leaky(nn.Module):
    """Leaky integrate-and-fire: v ← β v + x, a spike above 1, which is subtracted."""

    v: Tensor

    def __init__(self, decay: float) -> None:
        """Take β."""
        super().__init__()
        self.decay = nn.Parameter(torch.tensor(decay))
        self.register_buffer("v", torch.zeros(B, H), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the spikes of one step, (B, H)."""
        v = self.decay * self.v + x
        spikes = Spike.apply(v - 1)
        assert isinstance(spikes, Tensor)
        self.v = v - spikes.detach()
        return spikes


class Network(nn.Module):
    """One spiking layer; what is read is a running mean of its spikes."""

    def __init__(self, decay: float) -> None:
        """Take the layer's β."""
        super().__init__()
        self.lift, self.spiking, self.readout = nn.Linear(5, H), Leaky(decay), nn.Linear(H, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (T, B, 3) for x (T, B, 5)."""
        self.spiking.v = torch.zeros(B, H)  # or it goes on from the batch before
        logits = []
        for x_t in x:
            spikes = self.spiking(self.lift(x_t))
            logits.append(self.readout(spikes + 0.1 * self.spiking.v))
        return torch.stack(logits)


def main(report: str | None = None) -> None:
    """Trace the network at three decays, and hold the gradient beside β to the power of the lag."""
    torch.manual_seed(0)
    x, labels = 2 * torch.randn(T, B, 5), torch.randint(3, (B,))
    flow = None
    for decay in (0.5, 0.9, 0.99):
        model = Network(decay)
        with tt.trace(model, steps=[Leaky]) as trace:
            losses = torch.stack([nn.functional.cross_entropy(y, labels) for y in model(x)])
        flow = trace.flow(losses)
        layer = flow["spiking"]
        verdict = tt.diagnose(flow)["spiking"].verdict.name
        profile = layer.lag_profile()
        print(f"β = {decay}: {verdict}; 1 % of the gradient is left after {layer.horizon()} steps,")
        print(f"  after 10 it is {profile[10]:.1e} of it; β^10 = {decay**10:.1e}.")

        losses.sum().backward(retain_graph=True)  # the flow asks the graph, now and in a report
        torch.testing.assert_close(
            layer.weight_grad("decay"), model.spiking.decay.grad, rtol=1e-4, atol=1e-6
        )

    assert flow is not None
    print(f"\n{flow}\nThe terms of dE/dβ sum to autograd's gradient, at each of the three.")
    if report:
        print(f"Wrote {tt.write_report(flow, report)}.")


if __name__ == "__main__":
    main(*sys.argv[1:2])
