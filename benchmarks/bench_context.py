"""A decoder with attention over each row's own memory, against a loop by hand: interleaved runs.

Run: python benchmarks/bench_context.py
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import Tensor, nn

import throughtime as tt

SIZES = ((20, 32, 50, 128), (100, 32, 50, 128), (100, 8, 20, 64), (400, 8, 20, 64))


class Attend(nn.Module):
    """A step of a GRU over what attention reads from a memory (B, N, H)."""

    def __init__(self, I: int, H: int) -> None:
        super().__init__()
        self.inner = nn.GRUCell(I + H, H)

    def forward(self, x: Tensor, h: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        scores = (memory @ h[:, :, None]).squeeze(2).masked_fill(~mask, float("-inf"))
        read = (scores.softmax(1)[:, None] @ memory).squeeze(1)
        return self.inner(torch.cat((x, read), 1), h)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7, help="runs of each, one after another")
    runs = parser.parse_args().runs
    torch.set_num_threads(1)
    print("   T   B   N    H   loop ms   layer ms   ratio")
    for T, B, N, H in SIZES:
        step, I = Attend(H // 2, H), H // 2
        layer, x = tt.Recurrent(tt.cells.Function(step, I, H)), torch.randn(T, B, I)
        memory, mask = torch.randn(B, N, H, requires_grad=True), torch.ones(B, N).bool()
        context = {"memory": memory, "mask": mask}

        def by_layer(layer=layer, x=x, context=context) -> None:
            layer(x, context=context)[0].pow(2).mean().backward()

        def by_hand(step=step, x=x, context=context, B=B, H=H) -> None:
            s, outputs = torch.zeros(B, H), []
            for x_t in x:
                s = step(x_t, s, **context)
                outputs.append(s)
            torch.stack(outputs).pow(2).mean().backward()

        times: dict[str, list[float]] = {"layer": [], "loop": []}
        for run in range(runs + 1):
            for name, call in (("layer", by_layer), ("loop", by_hand)):
                begun = time.perf_counter()
                call()
                if run:
                    times[name].append(time.perf_counter() - begun)
        ours, theirs = (1e3 * statistics.median(times[name]) for name in ("layer", "loop"))
        print(f"{T:4} {B:3} {N:3} {H:4} {theirs:9.1f} {ours:10.1f} {ours / theirs:7.2f}")


if __name__ == "__main__":
    main()
