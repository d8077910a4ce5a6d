"""A layer on a GPU, in plain torch step by step, against cuDNN and against torch without cuDNN.

Run: python benchmarks/bench_gpu.py; it needs a GPU, and says so where there is none.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import nn

import throughtime as tt

SIZES = (
    (32, 100, 128, 128),
    (64, 100, 256, 256),
    (8, 500, 128, 128),
    (16, 128, 1024, 1024),
    (512, 100, 1024, 1024),
)


def least(call: Callable[[], object], rounds: int) -> float:
    """Return the smallest time of a call, the GPU's work included, in ms."""
    times = []
    for _ in range(rounds + 1):  # the first warms up
        torch.cuda.synchronize()
        began = time.perf_counter()
        call()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return 1e3 * min(times[1:])


def training(kind: str, sizes: tuple[int, int, int, int], rounds: int) -> str:
    B, T, I, H = sizes
    torch.manual_seed(0)
    ours, theirs = getattr(tt, kind)(I, H).cuda(), getattr(nn, kind)(I, H).cuda()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(T, B, I, device="cuda", requires_grad=True)
    g = torch.randn(T, B, H, device="cuda")

    def step(layer: nn.Module) -> list[torch.Tensor]:
        leaves = [*layer.parameters(), x]
        return list(torch.autograd.grad(layer(x)[0], leaves, g))

    apart = max(
        float((p - q).norm() / q.norm()) for p, q in zip(step(ours), step(theirs), strict=True)
    )
    mine, cudnn = least(lambda: step(ours), rounds), least(lambda: step(theirs), rounds)
    with torch.backends.cudnn.flags(enabled=False):
        plain = least(lambda: step(theirs), rounds)
    return f"{kind:6}{sizes!s:24}{mine:12.2f}{cudnn:8.2f}{plain:16.2f}{apart:10.1e}"


def flow(kind: str, rounds: int) -> float:
    T, B, H = 200, 16, 128
    layer, x = getattr(nn, kind)(H, H).cuda(), torch.randn(T, B, H, device="cuda")

    def run() -> None:
        with tt.trace(layer) as trace:
            losses = layer(x)[0].square().mean((1, 2))
        trace.flow(losses)

    return least(run, rounds)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=5)
    rounds = options.parse_args().rounds
    if not torch.cuda.is_available():
        print("There is no GPU here; nothing was measured.")
        return
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}; a training step, float32, ms"
    )
    print(
        f"{'':6}{'(B, T, I, H)':24}"
        f"{'throughtime':>12}{'cuDNN':>8}{'without cuDNN':>16}{'apart':>10}"
    )
    for kind in ("RNN", "GRU", "LSTM"):
        for sizes in SIZES:
            print(training(kind, sizes, rounds), flush=True)
        print(f"{kind:6}trace and flow, T=200 B=16 H=128: {flow(kind, rounds):.0f} ms", flush=True)


if __name__ == "__main__":
    main()
