"""A loop over `nn.LSTMCell`: one run, the same numbers as the whole layer's, and where it is cut.

Run: python examples/cell_loop.py [report.html]
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

import throughtime as tt

T, B = 40, 8


class Loop(nn.Module):
    """A tagger that calls its cell step by step, and may detach the state every so many steps."""

    def __init__(self, detach_every: int | None = None) -> None:
        """Build the parts; nothing of them knows about throughtime."""
        super().__init__()
        self.cell, self.readout = nn.LSTMCell(6, 24), nn.Linear(24, 3)
        self.detach_every = detach_every

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (T, B, 3) for x (T, B, 6)."""
        h = c = torch.zeros(x.shape[1], 24)
        logits = []
        for t, x_t in enumerate(x):
            if self.detach_every and t and t % self.detach_every == 0:
                h, c = h.detach(), c.detach()
            h, c = self.cell(x_t, (h, c))
            logits.append(self.readout(h))
        return torch.stack(logits)


def flow_of(model: nn.Module, x: Tensor, tags: Tensor) -> tt.Flow:
    """Return the flow of the tagger's loss, one loss a step."""
    with tt.trace(model) as trace:
        losses = nn.functional.cross_entropy(model(x).mT, tags, reduction="none").mean(1)
    return trace.flow(losses)


def main(report: str | None = None) -> None:
    """Trace the loop, compare it with the whole layer, and cut it."""
    torch.manual_seed(0)
    model, x, tags = Loop(), torch.randn(T, B, 6), torch.randint(3, (T, B))
    flow = flow_of(model, x, tags)
    print(f"{flow}\n")  # one row for the 40 calls
    layer = flow["cell"]

    # The whole layer over the same weights.
    whole = nn.LSTM(6, 24)
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        setattr(whole, f"{name}_l0", getattr(model.cell, name))
    with tt.trace(whole) as trace:
        logits = model.readout(whole(x)[0])
        losses = nn.functional.cross_entropy(logits.mT, tags, reduction="none").mean(1)
    same = trace.flow(losses)["l0"]
    torch.testing.assert_close(layer.norms, same.norms, rtol=1e-3, atol=1e-9)
    print(f"nn.LSTM over the same weights says the same: 1 % is left after {same.horizon()} steps.")

    # The state detached every ten steps: the flow says where, and nothing passes there.
    model.detach_every = 10
    cut = flow_of(model, x, tags)["cell"]
    print(f"Detached every 10 steps it is cut before steps {cut.cuts}:")
    print(f"  of the last loss, {cut.norms[-1, 31].mean():.1e} reaches step 31,", end=" ")
    print(f"and {cut.norms[-1, 30].mean():.1e} reaches step 30.")
    assert cut.cuts == (11, 21, 31) and not cut.norms[-1, :31].any()

    if report:
        print(f"Wrote {tt.write_report(flow, report)}.")


if __name__ == "__main__":
    main(*sys.argv[1:2])
