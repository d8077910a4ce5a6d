"""What a flow of a loop over time costs, beside the fused layer's and beside autograd's.

python benchmarks/bench_loops.py [--rounds 7]: an nn.LSTMCell in a loop of T = 200 steps, B = 16,
H = 128, all pairs, one thread; medians of interleaved rounds. Results are compared in float64
first: a fast wrong number is none.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

import throughtime as tt

T, B, I, H = 200, 16, 8, 128


class Loop(nn.Module):
    """A cell in a ``for``; with ``hears``, each input is what was said before."""

    def __init__(self, hears: bool) -> None:
        super().__init__()
        self.cell, self.out, self.hears = nn.LSTMCell(I, H), nn.Linear(H, I), hears

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(x.shape[1], H)
        said, x_t = [], x[0]
        for t in range(len(x)):
            h, c = self.cell(x_t if self.hears else x[t], (h, c))
            said.append(h)
            if self.hears:
                x_t = self.out(h)
        return torch.stack(said)


class Fused(nn.Module):
    """The same recurrence in one call."""

    def __init__(self, cell: nn.LSTMCell) -> None:
        super().__init__()
        self.rnn = nn.LSTM(I, H)
        for name, weight in cell.named_parameters():
            getattr(self.rnn, f"{name}_l0").data.copy_(weight.data)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x)[0]


def per_step(h: Tensor) -> Tensor:
    """One loss a step."""
    return h.pow(2).sum((1, 2))


def flow(model: nn.Module, x: Tensor) -> tt.LayerFlow:
    """Trace a model, and take all pairs."""
    with tt.trace(model) as trace:
        losses = per_step(model(x))
    return next(iter(trace.flow(losses).values()))


def by_autograd(model: nn.Module, x: Tensor, every: int) -> None:
    """Send one loss of so many back by itself, as one would without a trace."""
    losses = per_step(model(x))
    weights = [w for name, w in model.named_parameters() if "cell" in name]
    for v in range(0, len(losses), every):
        torch.autograd.grad(losses[v], weights, retain_graph=True)


def seconds(run: Callable[[], object]) -> float:
    """Return how long something takes."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    torch.manual_seed(0)
    loop, decoder = Loop(False), Loop(True)
    fused, x = Fused(loop.cell), torch.randn(T, B, I)
    one, other = (flow(m.double(), x[:30].double()).norms for m in (loop, fused))
    print(
        f"norms of loop and layer differ by {float(((one - other) / other.amax()).abs().max()):.1e}"
    )
    for model in (loop, fused):
        model.float()
    every = 10
    rows: dict[str, Callable[[], object]] = {
        "forward of the loop": lambda: per_step(loop(x)),
        "forward of the loop, traced": lambda: _traced(loop, x),
        "trace and flow of the layer": lambda: flow(fused, x),
        "trace and flow of the loop": lambda: flow(loop, x),
        "trace and flow of a loop that hears itself": lambda: flow(decoder, x),
        "T backward passes of the latter": lambda: by_autograd(decoder, x, every),
    }
    times: dict[str, list[float]] = {name: [] for name in rows}
    for n in range(rounds + 1):
        for name, run in rows.items():
            took = seconds(run) * (every if name.startswith("T backward") else 1)
            if n:  # the first round warms up
                times[name].append(took)
    middle = {name: statistics.median(own) for name, own in times.items()}
    for name, took in middle.items():
        print(f"{name:45} {took:7.3f} s")
    names = list(rows)
    print(f"trace over forward    {middle[names[1]] / middle[names[0]]:.2f} (at most 1.3 is asked)")
    print(f"loop over layer       {middle[names[3]] / middle[names[2]]:.2f} (at most 1.5)")
    print(f"autograd over relayed {middle[names[5]] / middle[names[4]]:.2f} (at least 3)")


def _traced(model: nn.Module, x: Tensor) -> None:
    with tt.trace(model):
        per_step(model(x))


if __name__ == "__main__":
    main()
