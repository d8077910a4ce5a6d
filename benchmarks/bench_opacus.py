"""A private training step of `tt` layers against Opacus's own modules: interleaved runs.

A step is forward, backward with each row's gradient, clipping, noise and the update, as
``PrivacyEngine.make_private`` sets it up. Needs Opacus (pip install throughtime[opacus]).

Run: python benchmarks/bench_opacus.py
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import torch
from opacus import PrivacyEngine
from opacus.layers import DPGRU, DPLSTM, DPRNN
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import throughtime as tt
from throughtime.integrations.opacus import register

KINDS = {"LSTM": (nn.LSTM, DPLSTM), "GRU": (nn.GRU, DPGRU), "RNN": (nn.RNN, DPRNN)}
SIZES = ((20, 16, 32), (50, 32, 64), (100, 32, 128))


class Classifier(nn.Module):
    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.layer, self.readout = layer, nn.Linear(width, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.readout(self.layer(x)[0][:, -1])


def steps(model: nn.Module, T: int, B: int, mode: str) -> Callable[[], None]:
    """Return a private training step on one batch that stays."""
    x, y = torch.randn(B, T, 16), torch.arange(B) % 2
    criterion = nn.CrossEntropyLoss()
    private = PrivacyEngine().make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        criterion=criterion,
        data_loader=DataLoader(TensorDataset(x, y), batch_size=B),
        noise_multiplier=1.0,
        max_grad_norm=1.0,
        poisson_sampling=False,
        grad_sample_mode=mode,
    )
    wrapped, optimizer, loss = private[0], private[1], private[2] if mode == "ghost" else criterion

    def step() -> None:
        optimizer.zero_grad()
        loss(wrapped(x), y).backward()
        optimizer.step()

    return step


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--mode", default="hooks", choices=("hooks", "ghost"))
    given = options.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    register()
    print(f"float32, one thread, I = 16, mode {given.mode}; time of a private step")
    print(f"{'layer':6}{'sizes':20}{'ours':>9}{'Opacus':>9}{'least':>8}{'median':>8}")
    for name, (torchs, opacus) in KINDS.items():
        for T, B, H in SIZES:
            torch.manual_seed(0)
            ours = tt.convert(torchs(16, H, batch_first=True))
            ways = [
                steps(Classifier(layer, H), T, B, given.mode)
                for layer in (ours, opacus(16, H, batch_first=True))
            ]
            took: list[list[float]] = [[], []]
            for _ in range(given.rounds + 1):
                for way, times in zip(ways, took, strict=True):
                    began = time.process_time()
                    way()
                    times.append(time.process_time() - began)
            (a, b), ratios = (
                [statistics.median(times[1:]) for times in took],
                [b / a for a, b in zip(took[0][1:], took[1][1:], strict=True)],
            )
            print(
                f"{name:6}{f'T={T} B={B} H={H}':20}{1e3 * a:7.1f}ms{1e3 * b:7.1f}ms"
                f"{min(ratios):7.1f}x{statistics.median(ratios):7.1f}x"
            )


if __name__ == "__main__":
    main()
