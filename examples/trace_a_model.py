"""Trace a model of your own: which layer, how far back, what does each step contribute?

Run: python examples/trace_a_model.py [report.html]
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

import throughtime as tt


class Tagger(nn.Module):
    """An ordinary model: an embedding, dropout, two recurrent layers, a readout."""

    def __init__(self, words: int = 50, tags: int = 7) -> None:
        """Build the parts; nothing of them knows about throughtime."""
        super().__init__()
        self.embed = nn.Embedding(words, 16)
        self.gru = nn.GRU(16, 32, num_layers=2, dropout=0.1, batch_first=True)
        self.readout = nn.Linear(32, tags)

    def forward(self, words: Tensor) -> Tensor:
        """Return logits (B, T, tags) for words (B, T)."""
        return self.readout(self.gru(self.embed(words))[0])


def main(report: str | None = None) -> None:
    """Trace one batch, look at the numbers, and write the report if a path is given."""
    torch.manual_seed(0)
    B, T = 4, 60
    model = Tagger()
    words, tags = torch.randint(50, (B, T)), torch.randint(7, (B, T))

    with tt.trace(model) as trace:
        logits = model(words)
        # One loss a time step: averaged over the batch, not over time.
        losses = nn.functional.cross_entropy(logits.mT, tags, reduction="none").mean(0)
    flow = trace.flow(losses)
    print(flow)

    layer = flow["gru.l0"]
    print(f"\nIn gru.l0 a typical gradient keeps 1 % of its size over {layer.horizon()} steps.")
    print(f"Of the last loss, {layer.norms[-1, 1].mean():.2e} reaches step 1.")

    # The split is exact: the terms of eq. 5 sum to what backward() leaves in .grad.
    terms = torch.stack([layer.weight_grad("weight_hh", step=k) for k in range(1, T + 1)])
    losses.sum().backward()
    grad = model.gru.get_parameter("weight_hh_l0").grad
    assert grad is not None
    error = (terms.sum(0) - grad).norm() / grad.norm()
    print(f"The {T} terms of dE/dW_h sum to .grad: relative difference {error:.0e}.")
    assert error < 1e-5

    for name, diagnosis in tt.diagnose(flow).items():
        print(f"\n{name}: {diagnosis.verdict.name}")
        for evidence in diagnosis.evidence:
            print(f"  {evidence}")

    if report:
        tt.write_report(flow, report)
        print(f"\nWrote {report}.")


if __name__ == "__main__":
    main(*sys.argv[1:2])
