"""Models and losses whose flow is taken apart, one for each way of using recurrent layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .by_hand import F64, draw, layer

T, B, I, H = 6, 3, 2, 4
LENGTHS = [4, 6, 1]


@dataclass
class Case:
    """A model, and a function that runs it and gives its losses, one entry each."""

    model: nn.Module
    losses: Callable[[nn.Module], Tensor]


def resets() -> Tensor:
    """Give resets inside, at the first step, and beside each other."""
    reset = torch.zeros(T, B, dtype=torch.bool)
    reset[2, 0] = reset[0, 1] = reset[3, 1] = reset[4, 1] = True
    return reset


def per_step(output: Tensor) -> Tensor:
    """Give one loss a step, each with weights of its own."""
    return (output * draw(*output.shape, seed=5)).sum((1, 2)) + output.pow(2).sum((1, 2))


def plain(kind: str, **options) -> Case:
    """Give one module that is the model itself."""
    return Case(layer(kind, I, H, **options), lambda m: per_step(m(draw(T, B, I))[0]))


def ragged(kind: str, **options) -> Case:
    """Give rows of different lengths; the losses also read the final state."""

    def losses(model: nn.Module) -> Tensor:
        output, final = model(draw(T, B, I), lengths=LENGTHS)
        final = final[0] if isinstance(final, tuple) else final
        return torch.cat((per_step(output), final.pow(2).sum()[None]))

    return Case(layer(kind, I, H, **options), losses)


def with_resets(kind: str, **options) -> Case:
    """Give episodes that end inside the batch."""
    return Case(
        layer(kind, I, H, **options), lambda m: per_step(m(draw(T, B, I), reset=resets())[0])
    )


class TwoModules(nn.Module):
    """Two recurrent modules with a user's own layers between and after them."""

    def __init__(self, below: str, above: str) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, I, dtype=F64)
        self.first = layer(below, I, H, bidirectional=True)
        self.between = nn.Sequential(nn.Linear(2 * H, I, dtype=F64), nn.LayerNorm(I, dtype=F64))
        self.second = layer(above, I, H)
        self.readout = nn.Linear(H, 5, dtype=F64)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = torch.tanh(self.between(self.first(self.embed(tokens))[0]))
        return self.readout(self.second(hidden)[0])


def two_modules() -> Case:
    """Give a model with an embedding, two recurrent modules and a readout."""
    tokens = torch.arange(T * B).view(T, B) % 9
    return Case(TwoModules("lstm", "gru"), lambda m: per_step(m(tokens)))


def attention() -> Case:
    """Give a readout in which each loss reads all steps of the layer."""

    def losses(model: nn.Module) -> Tensor:
        output, _ = model(draw(T, B, I))
        keys = output.transpose(0, 1)
        mixed = (keys @ keys.transpose(1, 2)).softmax(-1) @ keys
        return per_step(mixed.transpose(0, 1))

    return Case(layer("gru", I, H), losses)


class Twice(nn.Module):
    """One layer run a second time over what it gave the first time."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = layer("lstm", H, H)

    def forward(self, x: Tensor) -> Tensor:
        return self.shared(torch.sin(self.shared(x)[0]))[0]


def shared() -> Case:
    """Give a model whose one layer runs twice."""
    return Case(Twice(), lambda m: per_step(m(draw(T, B, H))))


class Translator(nn.Module):
    """An encoder whose final state is where the decoder begins; the two have other lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = layer("lstm", I, H)
        self.decoder = layer("lstm", I, H)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        _, state = self.encoder(x)
        return self.decoder(y, state)[0]


def translator() -> Case:
    """Give an encoder and a decoder joined through hx."""
    return Case(Translator(), lambda m: per_step(m(draw(T, B, I), draw(4, B, I))))


def function_cell() -> Case:
    """Give a cell that the user wrote, over two weights."""
    import throughtime as tt

    weights = {"W": draw(H, H) / H, "U": draw(H, I)}
    cell = tt.cells.Function(
        lambda x, s, W, U: torch.tanh(x @ U.T + s @ W.T) + 0.5 * s, I, H, weights=weights
    )
    return Case(tt.Recurrent(cell), lambda m: per_step(m(draw(T, B, I))[0]))


CASES: dict[str, Callable[[], Case]] = {
    **{kind: (lambda k=kind: plain(k)) for kind in ("tanh", "relu", "sigmoid", "lstm", "gru")},
    "stacked": lambda: plain("lstm", num_layers=3),
    "stacked with dropout": lambda: plain("gru", num_layers=2, dropout=0.3),
    "bidirectional": lambda: plain("gru", num_layers=2, bidirectional=True),
    "projected": lambda: plain("lstm", num_layers=2, bidirectional=True, proj_size=3),
    "no bias": lambda: plain("lstm", num_layers=2, bias=False),
    "ragged": lambda: ragged("tanh"),
    "ragged, bidirectional": lambda: ragged("lstm", num_layers=2, bidirectional=True),
    "resets": lambda: with_resets("gru"),
    "resets, bidirectional": lambda: with_resets("lstm", num_layers=2, bidirectional=True),
    "two modules": two_modules,
    "attention": attention,
    "shared": shared,
    "translator": translator,
    "function": function_cell,
}
