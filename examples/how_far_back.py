"""How far back does each of them look? A transformer, convolutions, a state-space model, an LSTM.

All four learn to name who was said hi to, 16 words after the name was read (`tasks.Mention`).
`tt.mark_steps` on the embedded words makes each word a step, whatever the model is: the flow then
has, for every word, how strongly the loss depends on it, ‖∂E/∂x_k‖, in the same numbers for all.

Run: python examples/how_far_back.py [report.html]
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn

import throughtime as tt
from throughtime.tasks import Mention

LAG, ROWS, WIDTH, UPDATES = 16, 16, 24, 80


class Transformer(nn.Module):
    """One causal layer of attention, over words and their places."""

    def __init__(self) -> None:
        """Build the parts."""
        super().__init__()
        self.places = nn.Parameter(0.5 * torch.randn(64, 1, WIDTH))
        self.layer = nn.TransformerEncoderLayer(WIDTH, 2, 48, dropout=0.0)

    def forward(self, x: Tensor) -> Tensor:
        """Return (T, B, WIDTH) for (T, B, WIDTH)."""
        mask = nn.Transformer.generate_square_subsequent_mask(len(x))
        return self.layer(x + self.places[: len(x)], src_mask=mask, is_causal=True)


class Dilated(nn.Module):
    """Four causal convolutions of two taps, at distances 1, 2, 4 and 8: 16 words and no more."""

    def __init__(self) -> None:
        """Build the parts."""
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv1d(WIDTH, WIDTH, 2, dilation=2**n) for n in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """Return (T, B, WIDTH) for (T, B, WIDTH)."""
        y = x.permute(1, 2, 0)
        for n, layer in enumerate(self.layers):
            y = y + torch.relu(layer(nn.functional.pad(y, (2**n, 0))))
        return y.permute(2, 0, 1)


class StateSpace(nn.Module):
    """A diagonal linear recurrence, computed as a convolution with decays of its own."""

    def __init__(self) -> None:
        """Build the parts: decays that lose all but 1/e in 1.5 to 100 steps."""
        super().__init__()
        steps = torch.logspace(0.2, 2, WIDTH)
        self.rate = nn.Parameter(-steps.log())
        self.gate, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Return (T, B, WIDTH) for (T, B, WIDTH)."""
        lags = torch.arange(len(x))[:, None] - torch.arange(len(x))
        kernel = torch.exp(-self.rate.exp() * lags.clamp(min=0)[..., None]) * (lags >= 0)[..., None]
        gated = x * torch.sigmoid(self.gate(x))
        return x + torch.relu(self.out(torch.einsum("tsc,sbc->tbc", kernel, gated)))


class Lstm(nn.Module):
    """An LSTM."""

    def __init__(self) -> None:
        """Build the parts."""
        super().__init__()
        self.lstm = nn.LSTM(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Return (T, B, WIDTH) for (T, B, WIDTH)."""
        return self.lstm(x)[0]


class Reader(nn.Module):
    """A body between embedded words and the name; its words are the steps of the flow."""

    def __init__(self, name: str, body: nn.Module, task: Mention) -> None:
        """Take the name that the steps are marked by, and the body."""
        super().__init__()
        self.name, self.body = name, body
        self.embed = nn.Embedding(len(task.vocabulary), WIDTH)
        self.readout = nn.Linear(WIDTH, len(task.names))

    def forward(self, words: Tensor) -> Tensor:
        """Return logits (B, names) after the last word of (T, B)."""
        x = tt.mark_steps(self.name, self.embed(words), dim=0)
        return self.readout(self.body(x)[-1])


def train(model: nn.Module, task: Mention) -> float:
    """Train a little, and return how often the last batches' answers were right."""
    optimizer, chance = torch.optim.Adam(model.parameters(), lr=6e-3), random.Random(0)
    right = []
    for _ in range(UPDATES):
        words, names, _ = task.batch(ROWS, LAG, chance)
        logits = model(words)
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits, names).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        right.append((logits.argmax(1) == names).float().mean())
    return torch.stack(right[-5:]).mean().item()


def main(report: str | None = None) -> None:
    """Train the four, mark their words in one trace, and print the maps side by side."""
    torch.manual_seed(0)
    task = Mention(names=4, shortest=LAG, longest=LAG)
    bodies: dict[str, Callable[[], nn.Module]] = {
        "transformer": Transformer,
        "convolution": Dilated,
        "state space": StateSpace,
        "LSTM": Lstm,
    }
    models = {name: Reader(name, body(), task) for name, body in bodies.items()}
    right = {name: train(model, task) for name, model in models.items()}

    chance = random.Random(1)
    texts = [task.text(LAG, chance) for _ in range(ROWS)]
    words, names = task.encode(texts)
    with tt.trace() as trace:  # no model: the marks alone, of all four
        losses = [nn.functional.cross_entropy(model(words), names) for model in models.values()]
    flow = trace.flow(torch.stack(losses).sum()[None])

    print(f"{texts[0]}\n\n{'':12} right  horizon  at the name, {LAG} words back")
    for name in models:
        layer = flow[name]
        print(f"{name:12} {right[name]:5.0%}  {layer.horizon():7}  {layer.lag_profile()[LAG]:.1e}")

    print(f"\n{'':12} {'  '.join(f'{name:12}' for name in models)}")
    maps = {name: flow[name].norms[0, 1:].mean(1) for name in models}  # over all the texts
    for k, word in enumerate(texts[0].words):
        bars = [f"{'█' * round(12 * float(at[k] / at.max())):12}" for at in maps.values()]
        print(f"{word:>12} {'  '.join(bars)}".rstrip())

    # Sixteen words are all that these convolutions can see; the map says so exactly.
    assert not maps["convolution"][:-16].any() and bool(maps["convolution"][-16:].all())
    if report:
        print(f"\nWrote {tt.write_report(flow, report, words=texts[0].words)}.")


if __name__ == "__main__":
    main(*sys.argv[1:2])
