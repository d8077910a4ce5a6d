"""Small models, and a training of them that is watched or not."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from throughtime.errors import KeepWarning
from throughtime.watch import Keeper

T, B, I, H = 12, 4, 3, 8


class Model(nn.Module):
    """A recurrent layer with dropout before and after it, and a readout."""

    def __init__(self, kind: Any = nn.LSTM, layers: int = 2) -> None:
        super().__init__()
        self.rnn = kind(I, H, num_layers=layers, dropout=0.2 * (layers > 1))
        self.drop = nn.Dropout(0.3)
        self.read = nn.Linear(H, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.drop(self.rnn(self.drop(x))[0]))


class Packed(Model):
    """The same over rows of their own lengths."""

    def forward(self, x: Tensor, lengths: list[int]) -> Tensor:  # pyright: ignore
        packed = pack_padded_sequence(self.drop(x), torch.tensor(lengths))
        return self.read(self.drop(pad_packed_sequence(self.rnn(packed)[0])[0]))


class Normed(Model):
    """With buffers that a forward pass changes, and that its result depends on."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(I)
        self.read = nn.Sequential(spectral_norm(nn.Linear(H, H)), nn.Linear(H, 1))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.norm(x.flatten(0, 1)).view_as(x))


class Loop(nn.Module):
    """A cell in a loop of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.drop, self.read = nn.GRUCell(I, H), nn.Dropout(0.3), nn.Linear(H, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.shape[1], H)
        outputs = []
        for x_t in x:
            h = self.cell(self.drop(x_t), h)
            outputs.append(h)
        return self.read(torch.stack(outputs))


def batches(count: int = 6) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(T, B, I, generator=generator), torch.randn(T, B, 1, generator=generator))
        for _ in range(count)
    ]


def mean_square(model: nn.Module, batch: Any) -> Tensor:
    x, y = batch
    return (model(x) - y).pow(2).mean()


@dataclass
class Run:
    """What a training left behind."""

    losses: list[Tensor]
    keeper: Keeper
    said: list[str]
    gradients: list[list[Tensor]]


def train(
    model: nn.Module,
    folder: Any,
    data: list[Any],
    *,
    losses: Callable[[nn.Module, Any], Tensor] = mean_square,
    rate: float = 0.01,
    give: bool = True,
    every: int = 1,
    watched: bool = True,
    after: Callable[[int, nn.Module], None] | None = None,
) -> Run:
    optimizer = torch.optim.SGD(model.parameters(), rate)
    keeper = Keeper(model, folder, every=every) if watched else None
    seen, gradients = [], []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for step, batch in enumerate(data, 1):
            if keeper is not None:
                keeper.before(step)
            loss = losses(model, batch)
            if keeper is not None:
                keeper.after(loss, batch if give else None)
            optimizer.zero_grad()
            loss.backward()
            gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
            if after is not None:
                after(step, model)
            optimizer.step()
            seen.append(loss.detach())
        if keeper is not None:
            keeper.close()
    assert keeper is not None or not said
    assert all(w.category is KeepWarning for w in said)
    kept = [str(w.message) for w in said]
    return Run(seen, keeper, kept, gradients)  # pyright: ignore


def same_bits(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and bool(
        torch.equal(one.detach().view(torch.uint8), other.detach().view(torch.uint8))
        if one.dim()
        else torch.equal(one.reshape(1).view(torch.uint8), other.reshape(1).view(torch.uint8))
    )
