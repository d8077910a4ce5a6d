"""What `tt.examine` costs beside the flow that it reads; the aim is a fifth at most.

    python benchmarks/bench_examine.py

A flow keeps what was asked of it once, so each examination is of a fresh one. Processor time of one
thread; the median over rounds in which the two follow each other.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

import throughtime as tt

ROUNDS = 30
AIM = 0.2


def at_the_end(model: nn.Module, x: Tensor) -> Tensor:
    """Return one loss, of the last step."""
    return model(x)[0][-1].pow(2).mean()


def each_step(model: nn.Module, x: Tensor) -> Tensor:
    """Return a loss a step."""
    return model(x)[0].pow(2).mean((1, 2))


# The model, T, B and I of its input, its losses.
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int], Callable[..., Tensor]]] = {
    "LSTM 16, T = 30, a loss": (lambda: nn.LSTM(4, 16), (30, 4, 4), at_the_end),
    "LSTM 64, T = 60, a loss": (lambda: nn.LSTM(4, 64), (60, 16, 4), at_the_end),
    "LSTM 64, T = 100, a loss": (lambda: nn.LSTM(8, 64), (100, 32, 8), at_the_end),
    "LSTM 64, T = 60, a loss a step": (lambda: nn.LSTM(4, 64), (60, 16, 4), each_step),
    "GRU 64, T = 60, a loss": (lambda: nn.GRU(4, 64), (60, 16, 4), at_the_end),
    "RNN 64, T = 60, a loss": (lambda: nn.RNN(4, 64), (60, 16, 4), at_the_end),
    "2 × LSTM 64 both ways, T = 60": (
        lambda: nn.LSTM(4, 64, num_layers=2, bidirectional=True),
        (60, 16, 4),
        at_the_end,
    ),
}


def timed(build: Callable[[], nn.Module], shape: tuple[int, int, int], losses) -> tuple[float, ...]:
    """Return the median seconds of a flow, trace included, and of its examination."""
    torch.manual_seed(0)
    model, x = build(), torch.randn(*shape)
    flows, examined = [], []
    for turn in range(ROUNDS + 3):
        start = time.process_time()
        with tt.trace(model) as trace:
            values = losses(model, x)
        flow = trace.flow(values)
        middle = time.process_time()
        tt.examine(flow)
        end = time.process_time()
        if turn >= 3:
            flows.append(middle - start)
            examined.append(end - middle)
    return statistics.median(flows), statistics.median(examined)


def main() -> None:
    """Print a table."""
    torch.set_num_threads(1)
    print(f"{'':32}{'flow, ms':>9}{'examine, ms':>13}{'share':>8}")
    for name, case in CASES.items():
        flow, examined = timed(*case)
        late = "  above the aim" if examined > AIM * flow else ""
        share = f"{100 * examined / flow:.0f} %"
        print(f"{name:32}{1000 * flow:9.1f}{1000 * examined:13.1f}{share:>8}{late}")


if __name__ == "__main__":
    main()
