"""Train with throughtime's layers where torch.nn's stood: same weights, same results, and more.

Run: python examples/drop_in.py
"""

from __future__ import annotations

import torch
from torch import nn

import throughtime as tt


def same_results() -> None:
    """Load a checkpoint of nn.LSTM into tt.LSTM: outputs and gradients agree."""
    theirs = nn.LSTM(8, 16, num_layers=2, bidirectional=True)
    ours = tt.LSTM(8, 16, num_layers=2, bidirectional=True)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(30, 4, 8)
    for lstm in (theirs, ours):
        lstm(x)[0].pow(2).mean().backward()
    worst = max(
        float((a.grad - b.grad).norm() / a.grad.norm())
        for a, b in zip(theirs.parameters(), ours.parameters(), strict=True)
        if a.grad is not None and b.grad is not None
    )
    print(f"nn.LSTM and tt.LSTM: gradients differ by {worst:.0e} at most, relative.")
    assert worst < 1e-4


def in_place() -> None:
    """Convert a model that already has an optimizer: parameters stay the same objects."""
    model = nn.Sequential(nn.GRU(8, 16))
    before = list(model.parameters())
    tt.convert(model)
    assert all(a is b for a, b in zip(before, model.parameters(), strict=True))
    print(f"tt.convert: {type(model[0]).__module__}.{type(model[0]).__name__}, same Parameters.")


def ragged_and_reset() -> None:
    """Rows of different lengths without packing, and episodes that end inside a batch."""
    gru = tt.GRU(8, 16)
    x = torch.randn(20, 3, 8)
    output, h_n = gru(x, lengths=[20, 12, 5])
    assert (output[12:, 1] == 0).all() and torch.equal(h_n[0, 1], output[11, 1])

    reset = torch.zeros(20, 3, dtype=torch.bool)
    reset[10, 0] = True  # an episode of row 0 begins at step 11
    x.requires_grad_()
    gru(x, reset=reset)[0][-1].sum().backward()
    assert x.grad is not None
    reach = x.grad.norm(dim=-1)
    print(
        f"reset=: of the last output {reach[9, 0]:.0f} reaches step 10, {reach[10, 0]:.0e} step 11."
    )
    assert reach[9, 0] == 0 < reach[10, 0]


def train() -> None:
    """Learn to say what was seen five steps ago, as with any other module."""
    rnn, readout = tt.RNN(1, 32), nn.Linear(32, 1)
    optimizer = torch.optim.Adam([*rnn.parameters(), *readout.parameters()], lr=3e-3)
    first = last = 0.0
    for update in range(150):
        x = torch.rand(30, 16, 1)
        loss = (readout(rnn(x)[0])[5:] - x[:-5]).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        first, last = (loss.item(), loss.item()) if update == 0 else (first, loss.item())
    print(f"training: mean squared error {first:.4f} at first, {last:.4f} after 150 updates.")
    assert last < first


if __name__ == "__main__":
    torch.manual_seed(0)
    same_results()
    in_place()
    ragged_and_reset()
    train()
