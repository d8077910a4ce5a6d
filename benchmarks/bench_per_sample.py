"""`tt.per_sample_grads` against `torch.func.vmap` of `grad`: time by interleaved runs.

Run: python benchmarks/bench_per_sample.py
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

import throughtime as tt

SIZES = ((20, 8, 32), (50, 16, 64), (100, 32, 128))


class Gated(nn.Module):
    """Minimal gated unit (Zhou et al. 2016), as a step for `tt.cells.Function`."""

    def __init__(self, I: int, H: int) -> None:
        super().__init__()
        self.input, self.f, self.n = nn.Linear(I, 2 * H), nn.Linear(H, H), nn.Linear(H, H)

    def forward(self, x: Tensor, s: Tensor) -> Tensor:
        f, n = self.input(x).chunk(2, 1)
        f = torch.sigmoid(f + self.f(s))
        return s + f * (torch.tanh(n + self.n(f * s)) - s)


LAYERS = {
    "LSTM": lambda I, H: tt.LSTM(I, H),
    "GRU, 2 layers": lambda I, H: tt.GRU(I, H, 2),
    "minGRU": lambda I, H: tt.Recurrent(tt.cells.MinGRU(I, H)),
    "Function": lambda I, H: tt.Recurrent(tt.cells.Function(Gated(I, H), I, H)),
}


def by_layer(layer: nn.Module, x: Tensor) -> dict[str, Tensor]:
    layer.zero_grad()
    with tt.per_sample_grads(layer) as served:
        layer(x)[0].pow(2).sum().backward()
    return {name: p.grad_sample for name, p in served.items()}  # pyright: ignore


def by_vmap(layer: nn.Module, x: Tensor) -> dict[str, Tensor]:
    def loss(weights: dict[str, Tensor], row: Tensor) -> Tensor:
        return functional_call(layer, weights, (row.unsqueeze(1),))[0].pow(2).sum()

    weights = {name: p.detach() for name, p in layer.named_parameters()}
    return vmap(grad(loss), in_dims=(None, 1))(weights, x)


def plain(layer: nn.Module, x: Tensor) -> None:
    layer.zero_grad()
    layer(x)[0].pow(2).sum().backward()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=5)
    rounds = options.parse_args().rounds
    torch.set_num_threads(1)
    print("float32, one thread, I = 16; the time over that of vmap(grad), and of a plain backward")
    print(f"{'layer':16}{'sizes':18}{'least':>8}{'median':>8}{'plain':>8}")
    for name, make in LAYERS.items():
        for T, B, H in SIZES:
            torch.manual_seed(0)
            layer, x = make(16, H), torch.randn(T, B, 16)
            took: dict[str, list[float]] = {"by_layer": [], "by_vmap": [], "plain": []}
            for _ in range(rounds + 1):
                for way in (by_layer, by_vmap, plain):
                    began = time.process_time()
                    way(layer, x)
                    took[way.__name__].append(time.process_time() - began)
            ours, vmaps, plains = (times[1:] for times in took.values())
            ratios = [a / b for a, b in zip(ours, vmaps, strict=True)]
            more = statistics.median(a / b for a, b in zip(ours, plains, strict=True))
            print(
                f"{name:16}{f'T={T} B={B} H={H}':18}{min(ratios):8.3f}"
                f"{statistics.median(ratios):8.3f}{more:8.2f}"
            )


if __name__ == "__main__":
    main()
