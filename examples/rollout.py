"""A rollout of a forecaster on a grid, as weather models have it: three questions before training.

How does the gradient's norm change with the length of the rollout? Where is the graph cut? Which
step is the first bad one? The state is a grid, (B, 1, 12, 12); one call of the forecaster is one
step, so `tt.trace(model, steps=[Forecaster])` follows it.

Run: python examples/rollout.py [report.html]
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn
from torch.nn import functional

import throughtime as tt

B, SIZE, LENGTH = 4, 12, 16


class Forecaster(nn.Module):
    """One step ahead: a small convolution's correction of the field, on a torus."""

    def __init__(self) -> None:
        """Build the parts; nothing of them knows about throughtime."""
        super().__init__()
        self.widen = nn.Conv2d(1, 6, 3, padding=1, padding_mode="circular")
        self.narrow = nn.Conv2d(6, 1, 3, padding=1, padding_mode="circular")

    def forward(self, field: Tensor) -> Tensor:
        """Return the next field (B, 1, 12, 12)."""
        return field + self.narrow(functional.gelu(self.widen(field)))


class Rollout(nn.Module):
    """The forecaster on its own forecasts; it may hand the state on without its gradient."""

    def __init__(self) -> None:
        """Take a forecaster."""
        super().__init__()
        self.forecaster = Forecaster()

    def forward(self, field: Tensor, length: int, detach_every: int | None = None) -> Tensor:
        """Return the forecasts (length, B, 1, 12, 12)."""
        said = []
        for t in range(length):
            if detach_every and t and t % detach_every == 0:
                field = field.detach()
            field = self.forecaster(field)
            said.append(field)
        return torch.stack(said)


def weather(length: int) -> Tensor:
    """Return fields (length + 1, B, 1, 12, 12) of two waves that a wind carries along."""
    at = torch.arange(SIZE) * (2 * torch.pi / SIZE)
    phase = 6.28 * torch.rand(2, B, 1, 1, 1)
    t = torch.arange(length + 1)[:, None, None, None, None]
    one = torch.sin(at[:, None] - 0.3 * t + phase[0])
    return one + 0.5 * torch.cos(2 * at - 0.2 * t + phase[1])


def errors_of(model: Rollout, fields: Tensor, **how: int) -> Tensor:
    """Return the mean squared error of each step of a rollout, (length,)."""
    return (model(fields[0], len(fields) - 1, **how) - fields[1:]).pow(2).mean((1, 2, 3, 4))


def train(model: Rollout, updates: int) -> float:
    """Train on single steps, and return the last error."""
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    error = torch.zeros(())
    for _ in range(updates):
        error = errors_of(model, weather(1)).sum()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    return error.item()


def main(report: str | None = None) -> None:
    """Ask the three questions of a forecaster that was trained on single steps."""
    torch.manual_seed(0)
    model = Rollout()
    print(f"Trained on single steps, to a mean squared error of {train(model, 80):.1e}.")
    fields = weather(LENGTH)

    with tt.trace(model, steps=[Forecaster]) as trace:
        errors = errors_of(model, fields)
    flow = trace.flow(errors)
    layer = flow["forecaster"]
    print(
        f"\n{flow}\n\nlength  error  its gradient at the first field, relative to that at the last"
    )
    for length in (1, 2, 4, 8, 16):
        first, last = layer.norms[length - 1, 0].mean(), layer.norms[length - 1, length].mean()
        print(f"{length:6}  {errors[length - 1]:.3f}  {first / last:.2f}")

    with tt.trace(model, steps=[Forecaster]) as trace:
        errors = errors_of(model, fields, detach_every=4)
    cut = trace.flow(errors)["forecaster"]
    print(f"\nWith the state detached every four steps it is cut before steps {cut.cuts}.")
    assert cut.cuts == (5, 9, 13) and not cut.norms[-1, 1:13].any()

    if report:  # before the weights change: a flow asks the graph what is drawn
        print(f"Wrote {tt.write_report(flow, report)}.")

    # Corrections a thousand times too large: where does the rollout break?
    with torch.no_grad():
        model.forecaster.narrow.weight *= 1000
    with tt.trace(model, steps=[Forecaster]) as trace:
        errors = errors_of(model, fields)
    bad = trace.flow(errors)["forecaster"].first_nonfinite
    assert bad is not None and bad.direction == "forward"
    print(
        f"With corrections a thousand times too large the first {bad.kind} is at step {bad.step}."
    )


if __name__ == "__main__":
    main(*sys.argv[1:2])
