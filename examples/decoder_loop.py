"""A decoder that hears itself: what comes by way of its state, and what by way of what it said.

A forecaster reads 20 values of a wave and then goes on by itself: the same LSTM is called for one
step at a time on what it said last. The flow follows both ways back: the state, and the forecast
that is fed back. Detaching the forecast (as sampling a word does by itself) leaves the first alone.

Run: python examples/decoder_loop.py [report.html]
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

import throughtime as tt

READ, SAY, B, H = 20, 12, 16, 16


class Forecaster(nn.Module):
    """An LSTM that reads a wave and continues it."""

    def __init__(self) -> None:
        """Build the parts; nothing of them knows about throughtime."""
        super().__init__()
        self.lstm, self.readout = nn.LSTM(1, H), nn.Linear(H, 1)
        self.detached = False

    def forward(self, wave: Tensor) -> Tensor:
        """Return the next SAY values (SAY, B, 1) after a wave (READ, B, 1)."""
        out, state = self.lstm(wave)
        said = [self.readout(out[-1:])]
        while len(said) < SAY:
            heard = said[-1].detach() if self.detached else said[-1]
            out, state = self.lstm(heard, state)
            said.append(self.readout(out))
        return torch.cat(said)


def waves() -> tuple[Tensor, Tensor]:
    """Return what is read, (READ, B, 1), and what comes next, (SAY, B, 1)."""
    phase, t = 6.28 * torch.rand(B, 1), torch.arange(READ + SAY)[:, None, None]
    whole = torch.sin(0.4 * t + phase)
    return whole[:READ], whole[READ:]


def train(model: nn.Module, updates: int) -> float:
    """Train on waves, and return the last loss."""
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    loss = torch.zeros(())
    for _ in range(updates):
        past, future = waves()
        loss = nn.functional.mse_loss(model(past), future)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return loss.item()


def main(report: str | None = None) -> None:
    """Train a little, and trace one batch with and without the feedback's gradient."""
    torch.manual_seed(0)
    model = Forecaster()
    error = train(model, 60)
    print(f"After 60 updates the mean squared error over {SAY} steps ahead is {error:.3f}.")

    past, future = waves()
    flows = {}
    for way in ("state and what it said", "state alone"):
        model.detached = way == "state alone"
        with tt.trace(model) as trace:
            losses = (model(past) - future).pow(2).mean((1, 2))
        flows[way] = trace.flow(losses)
        layer = flows[way]["lstm.l0"]  # one run: the reading, and each step that it went on
        assert READ + SAY - 1 == layer.T and layer.cuts == ()
        reached = layer.norms[-1].mean(-1)
        print(f"\nBy {way}, the last loss sends {reached[-1]:.1e} to the last state,")
        print(f"  {reached[READ]:.1e} to the last that has read, {reached[1]:.1e} to the first.")

    # The sum over all steps is what backward() leaves in .grad, feedback and all.
    model.detached = False
    layer = flows["state and what it said"]["lstm.l0"]
    terms = sum(layer.weight_grad("weight_hh", step=k) for k in range(1, layer.T + 1))
    model.zero_grad()
    (model(past) - future).pow(2).mean((1, 2)).sum().backward()
    torch.testing.assert_close(terms, model.lstm.get_parameter("weight_hh_l0").grad)
    print(f"\nIts {layer.T} terms of dE/dW_h sum to what backward() leaves in .grad.")

    if report:
        print(f"Wrote {tt.write_report(flows['state and what it said'], report)}.")


if __name__ == "__main__":
    main(*sys.argv[1:2])
