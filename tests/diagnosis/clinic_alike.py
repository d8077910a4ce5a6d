"""The clinic over sound models that look ill: of none may a warning or an error be told.

``PYTHONPATH=tests python ../shared/clinic/run.py tests/diagnosis/clinic_alike.py`` prints it.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import throughtime as tt
from diagnosis.clinic_cases import Case, ce, traced
from diagnosis.clinic_loops import Cells
from diagnosis.clinic_numbers import Reader, mse
from diagnosis.clinic_reaching import gain
from diagnosis.clinic_wired import each_step


def train(model: nn.Module, loss, updates: int = 100, lr: float = 1e-2) -> None:
    """Train a model on fresh batches."""
    adam = torch.optim.Adam(model.parameters(), lr=lr)
    for _ in range(updates):
        adam.zero_grad()
        loss().mean().backward()
        adam.step()


# Trained models.


@functools.cache
def trained_sine() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(4)
    model = Reader(nn.GRU(1, 24))
    start = 6.3 * torch.rand(8, 1)
    x = (start + 0.4 * torch.arange(31)[:, None, None]).sin()
    train(model, lambda: mse(model(x[:-1]), x[1:]))
    return model, x


def sine_forecaster() -> tt.Flow:
    model, x = trained_sine()
    return traced(model, lambda: (model(x[:-1]) - x[1:]).pow(2).mean((1, 2)))


def trained_parity() -> tt.Flow:
    torch.manual_seed(4)
    model = Reader(nn.RNN(1, 32))

    def loss() -> Tensor:
        bits = torch.randint(2, (6, 32, 1)).float()
        return (model(2 * bits - 1) - bits.cumsum(0) % 2).pow(2).mean((1, 2))

    train(model, loss)
    return traced(model, loss)


def trained_recall() -> tt.Flow:
    """The first symbol is asked for after nine more; an LSTM has learnt it."""
    torch.manual_seed(4)
    model = Reader(nn.LSTM(6, 32), out=6)

    def loss() -> Tensor:
        x = torch.randint(6, (10, 32))
        return ce(model(nn.functional.one_hot(x, 6).float())[-1], x[0])

    train(model, loss, 150)
    return traced(model, loss)


def trained_letters() -> tt.Flow:
    torch.manual_seed(4)
    text = torch.tensor([ord(c) - 96 if c != " " else 0 for c in "the cat sat on the mat and " * 6])
    model = Reader(tt.LSTM(12, 32), out=27, front=nn.Embedding(27, 12))

    def losses() -> Tensor:
        at = torch.randint(len(text) - 25, (8,)) + torch.arange(25)[:, None]
        return ce(model(text[at[:-1]]).transpose(1, 2), text[at[1:]], reduction="none").mean(1)

    train(model, losses)
    return traced(model, losses)


def trained_cells() -> tt.Flow:
    torch.manual_seed(4)
    model = Cells(nn.GRUCell, 3, 24, out=2)

    def loss() -> Tensor:
        x = torch.randn(9, 32, 3)
        return ce(model(x)[-1], (x[..., 0].sum(0) > 0).long())

    train(model, loss)
    return traced(model, loss)


# Inputs that look ill.


def standardised_prices() -> tt.Flow:
    torch.manual_seed(4)
    x = 30_000 + 100 * torch.randn(24, 8, 1).cumsum(0)
    return each_step(Reader(nn.LSTM(1, 24)), (x - x.mean()) / x.std())


def one_hot_of_many() -> tt.Flow:
    torch.manual_seed(4)
    x = nn.functional.one_hot(torch.randint(300, (12, 8)), 300).float()
    return each_step(Reader(nn.GRU(300, 24)), x)


def driven_by_ones() -> tt.Flow:
    return each_step(Reader(nn.RNN(2, 24)), torch.ones(10, 6, 2))


def driven_by_nothing() -> tt.Flow:
    return each_step(Reader(nn.LSTM(2, 24)), torch.zeros(12, 6, 2))


def one_goal_held() -> tt.Flow:
    """A goal, the same at every step, besides what is seen."""
    torch.manual_seed(4)
    seen, goal = torch.randn(16, 6, 4), torch.randn(1, 6, 3).expand(16, 6, 3)
    return each_step(Reader(nn.GRU(7, 24)), torch.cat((seen, goal), -1))


def flags_and_counts() -> tt.Flow:
    torch.manual_seed(4)
    flags = (torch.rand(20, 8, 5) < 0.05).float()
    counts = torch.poisson(torch.full((20, 8, 2), 0.4))
    return each_step(Reader(nn.LSTM(9, 24)), torch.cat((torch.randn(20, 8, 2), flags, counts), -1))


def hours_as_angles() -> tt.Flow:
    hours = torch.arange(48.0)[:, None, None] / 24 * 2 * math.pi
    x = torch.cat((hours.sin(), hours.cos()), -1).expand(48, 6, 2)
    return each_step(Reader(nn.GRU(2, 24)), x)


def padded_on_the_left() -> tt.Flow:
    torch.manual_seed(4)
    rnn, out, x, y = nn.LSTM(5, 24), nn.Linear(24, 2), torch.randn(13, 10, 5), torch.arange(10) % 2
    for row in range(10):
        x[:row, row] = 0
    return traced(rnn, lambda: ce(out(rnn(x)[1][0][-1]), y))


def packed_unsorted() -> tt.Flow:
    torch.manual_seed(4)
    rnn, out, x = nn.GRU(5, 24, batch_first=True), nn.Linear(24, 2), torch.randn(6, 12, 5)
    lengths, y = torch.tensor([3, 12, 7, 1, 9, 5]), torch.arange(6) % 2

    def loss() -> Tensor:
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return ce(out(rnn(packed)[1][-1]), y)

    return traced(rnn, loss)


def packed_both_pooled() -> tt.Flow:
    torch.manual_seed(4)
    rnn = nn.LSTM(5, 20, batch_first=True, bidirectional=True)
    out, x, y = nn.Linear(40, 2), torch.randn(5, 14, 5), torch.arange(5) % 2
    lengths = torch.tensor([14, 11, 8, 5, 2])

    def loss() -> Tensor:
        packed = rnn(pack_padded_sequence(x, lengths, batch_first=True))[0]
        h = pad_packed_sequence(packed, batch_first=True)[0]
        return ce(out(h.sum(1) / lengths[:, None]), y)

    return traced(rnn, loss)


def both_last_states(cell: type = nn.LSTM) -> tt.Flow:
    torch.manual_seed(4)
    rnn, out = cell(5, 20, num_layers=2, bidirectional=True), nn.Linear(40, 2)
    x, y = torch.randn(9, 8, 5), torch.arange(8) % 2

    def loss() -> Tensor:
        h_n = rnn(x)[1]
        h_n = h_n[0] if isinstance(h_n, tuple) else h_n
        return ce(out(torch.cat((h_n[-2], h_n[-1]), 1)), y)

    return traced(rnn, loss)


# Losses that look ill.


def hinge_mostly_met() -> tt.Flow:
    torch.manual_seed(4)
    rnn, out, x = nn.GRU(5, 24), nn.Linear(24, 1), torch.randn(9, 24, 5)
    y = torch.where(torch.rand(24, 1) < 0.5, 1.0, -1.0)

    def loss() -> Tensor:
        score = out(rnn(x)[0][-1])
        aim = torch.where(torch.arange(24)[:, None] % 4 == 0, score, score + 3 * y)
        return (1 - y * aim).clamp(min=0).mean()

    return traced(rnn, loss)


def half_of_the_rows() -> tt.Flow:
    torch.manual_seed(4)
    model, x, weights = Reader(nn.LSTM(4, 24)), torch.randn(12, 8, 4), torch.arange(8) % 2
    return traced(model, lambda: (weights[:, None] * model(x).pow(2)).mean((1, 2)))


def returns_discounted() -> tt.Flow:
    torch.manual_seed(4)
    model, x = Reader(nn.GRU(4, 24)), torch.randn(25, 8, 4)
    fall = 0.9 ** torch.arange(25)
    return traced(model, lambda: fall * (model(x) - 1).pow(2).mean((1, 2)))


def last_three_of_twelve() -> tt.Flow:
    torch.manual_seed(4)
    model, x = Reader(tt.LSTM(4, 24)), torch.randn(12, 8, 4)
    return traced(model, lambda: model(x)[-3:].pow(2).mean((1, 2)))


def largest_over_time() -> tt.Flow:
    torch.manual_seed(4)
    rnn, out, x = nn.GRU(4, 32, batch_first=True), nn.Linear(32, 2), torch.randn(8, 30, 4)
    return traced(rnn, lambda: ce(out(rnn(x)[0].amax(1)), torch.arange(8) % 2))


def mean_over_time() -> tt.Flow:
    torch.manual_seed(4)
    rnn, out, x = nn.LSTM(4, 32), nn.Linear(32, 2), torch.randn(60, 8, 4)
    return traced(rnn, lambda: ce(out(rnn(x)[0].mean(0)), torch.arange(8) % 2))


def two_losses() -> tt.Flow:
    torch.manual_seed(4)
    rnn, a, b = nn.GRU(4, 24), nn.Linear(24, 1), nn.Linear(24, 3)
    x, kind = torch.randn(10, 6, 4), torch.randint(3, (6,))

    def losses() -> Tensor:
        h = rnn(x)[1][-1]
        return torch.stack((a(h).pow(2).mean(), 100 * ce(b(h), kind)))

    return traced(rnn, losses)


def labels_that_fit() -> tt.Flow:
    torch.manual_seed(4)
    rnn, out = nn.LSTM(6, 20, bidirectional=True), nn.Linear(40, 5)
    x, y = torch.randn(24, 4, 6), torch.randint(1, 5, (4, 6))

    def loss() -> Tensor:
        scores = out(rnn(x)[0]).log_softmax(-1)
        steps = torch.full((4,), 24)
        return nn.functional.ctc_loss(scores, y, steps, torch.tensor([6, 3, 5, 4]))

    return traced(rnn, loss)


# Wiring that looks ill.


def frozen_reservoir() -> tt.Flow:
    torch.manual_seed(4)
    model = Reader(nn.RNN(3, 40))
    model.rnn.requires_grad_(False)
    return each_step(model, torch.randn(12, 6, 3))


def frozen_below() -> tt.Flow:
    torch.manual_seed(4)
    below, above, out = nn.LSTM(4, 16), nn.LSTM(16, 16), nn.Linear(16, 1)
    below.requires_grad_(False)
    x = torch.randn(10, 6, 4)
    model = nn.ModuleDict({"below": below, "above": above, "out": out})
    return traced(model, lambda: out(above(below(x)[0])[0]).pow(2).mean((1, 2)))


def taught_translator() -> tt.Flow:
    torch.manual_seed(4)
    below, above, out = nn.LSTM(8, 24), nn.LSTM(8, 24), nn.Linear(24, 30)
    words, x, y = nn.Embedding(30, 8), torch.randint(30, (8, 6)), torch.randint(30, (7, 6))
    model = nn.ModuleDict({"words": words, "encoder": below, "decoder": above, "out": out})

    def losses() -> Tensor:
        _, state = below(words(x))
        scores = out(above(words(y[:-1]), state)[0])
        return ce(scores.transpose(1, 2), y[1:], reduction="none").mean(1)

    return traced(model, losses)


class Attends(nn.Module):
    """A decoder of GRU cells that attends over an encoder's outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.GRU(6, 24, bidirectional=True)
        self.bridge, self.cell = nn.Linear(48, 24), nn.GRUCell(54, 24)
        self.ask, self.out = nn.Linear(24, 48), nn.Linear(24, 6)

    def forward(self, x: Tensor, said: Tensor) -> Tensor:
        seen, h_n = self.encoder(x)
        h, found = self.bridge(torch.cat((h_n[0], h_n[1]), 1)).tanh(), []
        for word in said:
            weights = (seen * self.ask(h)).sum(-1, keepdim=True).softmax(0)
            h = self.cell(torch.cat((word, (weights * seen).sum(0)), 1), h)
            found.append(self.out(h))
        return torch.stack(found)


def attending_decoder() -> tt.Flow:
    torch.manual_seed(4)
    model, x, said = Attends(), torch.randn(9, 6, 6), torch.randn(6, 6, 6)
    return traced(model, lambda: (model(x, said) - 1).pow(2).mean((1, 2)))


def two_texts_compared() -> tt.Flow:
    torch.manual_seed(4)
    rnn, x, y = nn.LSTM(5, 24), torch.randn(10, 8, 5), torch.randn(7, 8, 5)

    def loss() -> Tensor:
        alike = nn.functional.cosine_similarity(rnn(x)[1][0][-1], rnn(y)[1][0][-1])
        return (1 - alike).mean()

    return traced(rnn, loss)


def cut_on_purpose() -> tt.Flow:
    torch.manual_seed(4)
    model = Reader(tt.LSTM(4, 24, through=tt.Truncated(10)))
    return each_step(model, torch.randn(40, 6, 4))


def kept_between_batches() -> tt.Flow:
    torch.manual_seed(4)
    model, state = Reader(nn.LSTM(4, 24)), None
    state = tuple(s.detach() for s in model.rnn(torch.randn(12, 6, 4))[1])
    x = torch.randn(12, 6, 4)
    return traced(model, lambda: model(x, state).pow(2).mean((1, 2)))


def of_shape(T: int = 10, B: int = 6, H: int = 24, cell=nn.LSTM, dtype=torch.float32, **options):
    """A forecast by a layer of torch as it comes."""
    torch.manual_seed(4)
    model = Reader(cell(3, H, **options)).to(dtype)
    x = torch.randn(T, B, 3, dtype=dtype)
    return traced(model, lambda: (model(x) - 1).pow(2).mean((1, 2)))


CASES = [
    Case("sound: trained on a sine", (), sine_forecaster),
    Case("sound: trained on parity", (), trained_parity),
    Case("sound: trained to recall", (), trained_recall),
    Case("sound: trained on letters", (), trained_letters),
    Case("sound: cells trained to sum", (), trained_cells),
    Case("sound: prices standardised", (), standardised_prices),
    Case("sound: one-hot of 300", (), one_hot_of_many),
    Case("sound: driven by ones", (), driven_by_ones),
    Case("sound: driven by nothing", (), driven_by_nothing),
    Case("sound: one goal held", (), one_goal_held),
    Case("sound: flags and counts", (), flags_and_counts),
    Case("sound: hours as angles", (), hours_as_angles),
    Case("sound: padded on the left", (), padded_on_the_left),
    Case("sound: packed, unsorted", (), packed_unsorted),
    Case("sound: packed, both ways, pooled", (), packed_both_pooled),
    Case("sound: both last states, LSTM", (), both_last_states),
    Case("sound: both last states, GRU", (), lambda: both_last_states(nn.GRU)),
    Case("sound: hinge, mostly met", (), hinge_mostly_met),
    Case("sound: half of the rows weighed", (), half_of_the_rows),
    Case("sound: discounted", (), returns_discounted),
    Case("sound: last three of twelve", (), last_three_of_twelve),
    Case("sound: largest over time", (), largest_over_time),
    Case("sound: mean over 60 steps", (), mean_over_time),
    Case("sound: two losses", (), two_losses),
    Case("sound: CTC, labels that fit", (), labels_that_fit),
    Case("sound: frozen reservoir", (), frozen_reservoir),
    Case("sound: frozen below", (), frozen_below),
    Case("sound: taught translator", (), taught_translator),
    Case("sound: attending decoder", (), attending_decoder),
    Case("sound: two texts compared", (), two_texts_compared),
    Case("sound: cut on purpose", (), cut_on_purpose),
    Case("sound: state kept between batches", (), kept_between_batches),
    Case("sound: linear of gain 1.1, 10 steps", (), lambda: gain("linear", 1.1, 10, "last")),
    Case("sound: tanh of gain 1.5, 8 steps", (), lambda: gain("tanh", 1.5, 8)),
    Case("sound: one step", (), lambda: of_shape(T=1)),
    Case("sound: one step, two layers both ways", (),
         lambda: of_shape(T=1, cell=nn.GRU, num_layers=2, bidirectional=True)),
    Case("sound: one row, one unit", (), lambda: of_shape(B=1, H=1, cell=nn.RNN)),
    Case("sound: float64", (), lambda: of_shape(dtype=torch.float64, cell=nn.GRU)),
    Case("sound: bfloat16", (), lambda: of_shape(dtype=torch.bfloat16, cell=nn.RNN)),
    Case("sound: 1,500 steps, a loss a step", (), lambda: of_shape(T=1500, B=2, H=8)),
    Case("sound: projected", (), lambda: of_shape(proj_size=10)),
    Case("sound: three layers with dropout", (), lambda: of_shape(num_layers=3, dropout=0.5)),
    Case("sound: ReLU as it comes", (), lambda: of_shape(cell=nn.RNN, nonlinearity="relu")),
]  # fmt: skip
