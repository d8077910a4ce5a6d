"""The clinic over sound models, by a stranger: what may not raise an alarm.

``PYTHONPATH=tests python ../shared/clinic/run.py tests/diagnosis/clinic_strange_sound.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import throughtime as tt
from diagnosis.clinic_cases import Case, ce, traced
from diagnosis.clinic_strange import Attending, Leaning, Model, OwnLSTM, Stepped, each, last, mse
from diagnosis.clinic_strange_wired import Keeping, Texts, words


class Words(nn.Module):
    """A model of characters with its read-out tied to its embedding."""

    def __init__(self, cell=nn.GRU, V=12, H=24, tied=True) -> None:
        super().__init__()
        self.words, self.rnn = nn.Embedding(V, H), cell(H, H, batch_first=True)
        self.head = nn.Linear(H, V, bias=not tied)
        if tied:
            self.head.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(self.words(x))[0])


def next_word(model: nn.Module, x: Tensor) -> Tensor:
    """One loss a step."""
    said = model(x[:, :-1]).transpose(1, 2)
    return ce(said, x[:, 1:], reduction="none").mean(0)


def trained(model: nn.Module, loss, updates: int, rate: float = 1e-2) -> tt.Flow:
    step = torch.optim.Adam(model.parameters(), rate)
    for _ in range(updates):
        step.zero_grad()
        loss().sum().backward()
        step.step()
    return traced(model, loss)


def trained_words(cell=nn.GRU, updates: int = 30) -> tt.Flow:
    torch.manual_seed(7)
    model = Words(cell)
    x = (torch.arange(26) + torch.randint(12, (8, 1))) % 12
    return trained(model, lambda: next_word(model, x), updates)


def tied_words() -> tt.Flow:
    torch.manual_seed(7)
    model, x = Words(nn.LSTM), torch.randint(12, (6, 41))
    return traced(model, lambda: next_word(model, x))


def stateful_words() -> tt.Flow:
    torch.manual_seed(7)
    model, x = Keeping(True), torch.randint(20, (4, 31))
    for _ in range(3):
        model(torch.randint(20, (4, 30)))
    return traced(model, lambda: next_word(model, x))


def trained_forecaster() -> tt.Flow:
    torch.manual_seed(7)
    model = Model(nn.LSTM, 1, 16, 1)
    x = (0.3 * torch.arange(31) + 6 * torch.rand(8, 1)).sin()[..., None]
    return trained(model, lambda: mse(model(x[:, :-1]), x[:, 1:]), 40)


def trained_sum() -> tt.Flow:
    """Whether the sum of twelve signs is above 0."""
    torch.manual_seed(7)
    model, x = Model(nn.GRU, 1, 16), torch.randn(32, 12, 1).sign()
    y = (x.sum((1, 2)) > 0).long()
    return trained(model, lambda: ce(model(x)[:, -1], y), 50)


def masked_loss() -> tt.Flow:
    torch.manual_seed(7)
    model, (x, _) = Texts(nn.LSTM, 0), words(24)
    y, mask = torch.randn(8, 24, 2), (x != 0)[..., None].float()

    def loss() -> Tensor:
        said = model.head(model.rnn(model.words(x))[0])
        return ((said - y).pow(2) * mask).sum() / mask.sum() / 2

    return traced(model, loss)


def ignored_targets() -> tt.Flow:
    torch.manual_seed(7)
    model, (x, _) = Texts(nn.GRU, bidirectional=True), words(20)
    y = torch.randint(2, (8, 20)).masked_fill(x == 0, -100)

    def loss() -> Tensor:
        return ce(model.head(model.rnn(model.words(x))[0]).transpose(1, 2), y)

    return traced(model, loss)


def packed_both_ways() -> tt.Flow:
    torch.manual_seed(7)
    model, (x, lengths), y = Texts(bidirectional=True), words(12), torch.randint(2, (8,))

    def loss() -> Tensor:
        packed = pack_padded_sequence(model.words(x), lengths, True, False)
        h = model.rnn(packed)[1]
        return ce(model.head(torch.cat((h[0], h[1]), -1)), y)

    return traced(model, loss)


def root_over_packed_padding() -> tt.Flow:
    """The padded outputs are 0, and their root's gradient goes nowhere."""
    torch.manual_seed(7)
    model, (x, lengths) = Texts(nn.LSTM), words(12)

    def loss() -> Tensor:
        packed = pack_padded_sequence(model.words(x), lengths, True, False)
        h = pad_packed_sequence(model.rnn(packed)[0], True)[0]
        return (h.pow(2).sum(-1) + 1e-8).sqrt().mean()

    return traced(model.rnn, loss)


def left_padded() -> tt.Flow:
    torch.manual_seed(7)
    model, (x, _), y = Texts(nn.LSTM), words(12, left=True), torch.randint(2, (8,))
    return traced(model, lambda: ce(model.head(model.rnn(model.words(x))[0][:, -1]), y))


def most_over_time() -> tt.Flow:
    torch.manual_seed(7)
    model, x, y = (
        Model(nn.LSTM, H=24, bidirectional=True),
        torch.randn(8, 30, 4),
        torch.randint(2, (8,)),
    )
    return traced(model, lambda: ce(model.head(model.rnn(x)[0].amax(1)), y))


def attended() -> tt.Flow:
    torch.manual_seed(7)
    model, x, y = Attending(), torch.randn(5, 12, 4), torch.randn(5, 8, 4)
    mask = torch.arange(12) < torch.tensor([12, 5, 3, 9, 12])[:, None]
    return traced(model, lambda: mse(model(x, mask, y)[:, :-1], y[:, 1:]))


class Translating(nn.Module):
    """An encoder's last state begins a decoder that is told the right words."""

    def __init__(self) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(15, 8), nn.Embedding(11, 8)
        self.encoder, self.decoder = (nn.LSTM(8, 24, 2, batch_first=True) for _ in range(2))
        self.head = nn.Linear(24, 11)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.head(self.decoder(self.target(y), self.encoder(self.source(x))[1])[0])


def translated() -> tt.Flow:
    torch.manual_seed(7)
    model, x, y = Translating(), torch.randint(15, (6, 7)), torch.randint(11, (6, 8))
    return traced(model, lambda: ce(model(x, y[:, :-1]).transpose(1, 2), y[:, 1:]))


def told_half_of_the_time() -> tt.Flow:
    torch.manual_seed(7)
    cell, head, y = nn.GRUCell(3, 16), nn.Linear(16, 3), torch.randn(6, 12, 3)

    def loss() -> Tensor:
        state, said, wrong = torch.zeros(6, 16), y[:, 0], []
        for t in range(1, 12):
            state = cell(said if t % 2 else y[:, t - 1], state)
            said = head(state)
            wrong.append(mse(said, y[:, t]))
        return torch.stack(wrong).mean()

    return traced(nn.ModuleList((cell, head)), loss)


def identity_relu() -> tt.Flow:
    torch.manual_seed(7)
    model = Stepped(nn.RNNCell, 2, 32, nonlinearity="relu")
    with torch.no_grad():
        model.cell.weight_hh.copy_(torch.eye(32))
        model.cell.bias_hh.zero_()
        model.cell.bias_ih.zero_()
        model.cell.weight_ih.normal_(0, 0.05)
    return last(model, torch.rand(8, 30, 2))


def delay_remembered() -> tt.Flow:
    """A cue, 30 blank steps, a question; the biases are made for it."""
    from throughtime.remedies import chrono_

    torch.manual_seed(7)
    model, x = Model(nn.LSTM, 4, 48, 2), torch.zeros(8, 30, 4)
    chrono_(model.rnn, longest=30)
    x[:, :3] = torch.randn(8, 3, 4)
    return last(model, x)


def spikes() -> tt.Flow:
    torch.manual_seed(7)
    x = (torch.rand(8, 25, 10) < 0.06).float()
    return each(Model(nn.GRU, 10), x)


def heard_in_order() -> tt.Flow:
    torch.manual_seed(7)
    model, x = Model(nn.GRU, 6, 20, 7, bidirectional=True), torch.randn(4, 24, 6)
    y, long, many = (
        torch.randint(1, 7, (4, 5)),
        torch.tensor([24, 20, 18, 24]),
        torch.tensor([5, 3, 1, 4]),
    )

    def loss() -> Tensor:
        scores = model(x).log_softmax(-1).transpose(0, 1)
        return nn.functional.ctc_loss(scores, y, long, many)

    return traced(model, loss)


def wide() -> tt.Flow:
    torch.manual_seed(7)
    return last(Model(nn.LSTM, 32, 192), torch.randn(4, 10, 32))


def narrow() -> tt.Flow:
    torch.manual_seed(7)
    return each(Model(nn.RNN, 1, 2, 1), torch.randn(3, 6, 1))


def one_row_long() -> tt.Flow:
    torch.manual_seed(7)
    return each(Model(nn.LSTM), torch.randn(1, 70, 4))


def one_step() -> tt.Flow:
    torch.manual_seed(7)
    return last(Model(nn.GRU), torch.randn(8, 1, 4))


def standard_prices() -> tt.Flow:
    torch.manual_seed(7)
    x = 30_000 + 100 * torch.randn(6, 20, 2).cumsum(1)
    return each(Model(nn.LSTM, 2, proj_size=5), (x - x.mean((0, 1))) / x.std((0, 1)))


def grey_rows() -> tt.Flow:
    torch.manual_seed(7)
    return last(Model(nn.RNN, 14, nonlinearity="relu"), torch.randint(256, (8, 14, 14)) / 255)


def few_of_a_kind() -> tt.Flow:
    """Small counts, as they come."""
    torch.manual_seed(7)
    return each(Model(nn.GRU, 5), torch.poisson(torch.full((8, 16, 5), 1.5)))


def own_layer() -> tt.Flow:
    torch.manual_seed(7)
    return each(Model(OwnLSTM), torch.randn(6, 12, 4))


def leaky() -> tt.Flow:
    torch.manual_seed(7)
    return each(Leaning(lambda u, h, W: 0.8 * h + 0.2 * (u + W(h)).tanh()), torch.randn(6, 20, 4))


class Stacked(nn.Module):
    """Layers with norms and paths around them."""

    def __init__(self) -> None:
        super().__init__()
        self.front, self.head = nn.Linear(4, 16), nn.Linear(16, 2)
        self.layers = nn.ModuleList(nn.GRU(16, 16, batch_first=True) for _ in range(3))
        self.norms = nn.ModuleList(nn.LayerNorm(16) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        h = self.front(x)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            h = h + layer(norm(h))[0]
        return self.head(h)


def stacked() -> tt.Flow:
    torch.manual_seed(7)
    return each(Stacked(), torch.randn(6, 20, 4))


def policy_gradient() -> tt.Flow:
    torch.manual_seed(7)
    model, x = Stepped(nn.LSTMCell), torch.randn(6, 15, 4)
    reward = torch.rand(6, 15).flip(1).cumsum(1).flip(1)

    def loss() -> Tensor:
        chosen = torch.distributions.Categorical(logits=model(x))
        a = torch.randint(2, (6, 15))
        return -(chosen.log_prob(a) * (reward - reward.mean())).sum(1).mean()

    return traced(model, loss)


def in_between() -> tt.Flow:
    """A code drawn between an encoder and a decoder."""
    torch.manual_seed(7)
    rnns = nn.ModuleDict(
        {"enc": nn.GRU(4, 16, batch_first=True), "dec": nn.GRU(8, 16, batch_first=True)}
    )
    mid, head, x = nn.Linear(16, 16), nn.Linear(16, 4), torch.randn(6, 9, 4)

    def loss() -> Tensor:
        mean, log = mid(rnns["enc"](x)[1][0]).chunk(2, -1)
        z = mean + torch.randn_like(mean) * (log / 2).exp()
        said = head(rnns["dec"](z[:, None].expand(-1, 9, -1))[0])
        return mse(said, x) + 0.1 * (mean.pow(2) + log.exp() - log - 1).mean()

    return traced(rnns, loss)


def large_losses() -> tt.Flow:
    torch.manual_seed(7)
    model, x = Model(nn.LSTM, out=1), torch.randn(6, 12, 4)
    return traced(model, lambda: 1e5 * (model(x) - 300).pow(2).sum((0, 2)))


def summed_over_time() -> tt.Flow:
    torch.manual_seed(7)
    model, x, y = Model(nn.GRU), torch.randn(6, 60, 4), torch.randn(6, 60, 2)
    return traced(model, lambda: (model(x) - y).pow(2).sum())


def in_double() -> tt.Flow:
    torch.manual_seed(7)
    return last(Model(nn.RNN).double(), torch.randn(6, 6, 4).double())


def dropped_and_normed() -> tt.Flow:
    torch.manual_seed(7)
    rnn = nn.LSTM(6, 16, 2, batch_first=True, dropout=0.5)
    norm, drop, head = nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(16, 2)
    x = 5 + 40 * torch.randn(8, 15, 6)

    def loss() -> Tensor:
        h = rnn(norm(x.transpose(1, 2)).transpose(1, 2))[0]
        return head(drop(h)).pow(2).mean()

    return traced(nn.ModuleList((rnn, norm)), loss)


def two_languages() -> tt.Flow:
    """Two symbols at the end of every row, by chance and by grammar."""
    torch.manual_seed(7)
    x = torch.randint(3, (8, 15))
    x[:, -2:] = 2
    x = nn.functional.one_hot(x, 3).float()
    return last(Model(nn.GRU, 3), x)


def every_second_row_has_a_target() -> tt.Flow:
    torch.manual_seed(7)
    model, x, y = Model(nn.GRU, num_layers=2), torch.randn(8, 9, 4), torch.randint(2, (4,))
    return traced(model, lambda: ce(model(x)[::2, -1], y))


def each_row_one_longer() -> tt.Flow:
    torch.manual_seed(7)
    model, x, y = Model(nn.GRU), torch.randn(8, 9, 4), torch.randint(2, (8,))
    return traced(model, lambda: ce(model(x)[torch.arange(8), torch.arange(1, 9)], y))


def target_of_itself() -> tt.Flow:
    """What one view of the data says is the target of the other, and learns nothing."""
    torch.manual_seed(7)
    rnn, x = nn.GRU(4, 12, batch_first=True), torch.randn(6, 9, 4)
    return traced(rnn, lambda: mse(rnn(x)[1], rnn(x + 0.1 * torch.randn_like(x))[1].detach()))


def signals_that_settle() -> tt.Flow:
    torch.manual_seed(7)
    t, slow = torch.arange(60)[None, :, None], 2 + torch.arange(8)[:, None, None]
    return each(Model(nn.GRU), (-t / slow).exp().expand(8, 60, 4))


def read_out_that_begins_at_zero() -> tt.Flow:
    torch.manual_seed(7)
    model, x = Model(nn.LSTM), torch.randn(8, 12, 4)
    nn.init.zeros_(model.head.weight)
    return each(model, x)


CASES = [
    Case("sound: trained words", (), trained_words),
    Case("sound: trained words, LSTM", (), lambda: trained_words(nn.LSTM)),
    Case("sound: tied words, 40 steps", (), tied_words),
    Case("sound: stateful words", (), stateful_words),
    Case("sound: trained forecaster", (), trained_forecaster),
    Case("sound: trained sum", (), trained_sum),
    Case("sound: masked loss", (), masked_loss),
    Case("sound: ignored targets", (), ignored_targets),
    Case("sound: packed, both ways", (), packed_both_ways),
    Case("sound: root over packed padding", (), root_over_packed_padding),
    Case("sound: left padded, 12 steps", (), left_padded),
    Case("sound: most over time", (), most_over_time),
    Case("sound: attended under a mask", (), attended),
    Case("sound: translated", (), translated),
    Case("sound: told half of the time", (), told_half_of_the_time),
    Case("sound: identity with ReLU", (), identity_relu),
    Case("sound: a delay remembered", (), delay_remembered),
    Case("sound: spikes", (), spikes),
    Case("sound: heard in order (CTC)", (), heard_in_order),
    Case("sound: wide", (), wide),
    Case("sound: narrow", (), narrow),
    Case("sound: one row, 70 steps", (), one_row_long),
    Case("sound: one step", (), one_step),
    Case("sound: prices standardised", (), standard_prices),
    Case("sound: grey rows", (), grey_rows),
    Case("sound: small counts", (), few_of_a_kind),
    Case("sound: own layer", (), own_layer),
    Case("sound: leaky", (), leaky),
    Case("sound: stacked with norms", (), stacked),
    Case("sound: policy gradient", (), policy_gradient),
    Case("sound: a code in between", (), in_between),
    Case("sound: large losses", (), large_losses),
    Case("sound: summed over time", (), summed_over_time),
    Case("sound: double, 6 steps", (), in_double),
    Case("sound: dropout and batch norm", (), dropped_and_normed),
    Case("sound: rows end alike", (), two_languages),
    Case("sound: every second row has a target", (), every_second_row_has_a_target),
    Case("sound: each row one longer", (), each_row_one_longer),
    Case("sound: a target of itself", (), target_of_itself),
    Case("sound: signals that settle", (), signals_that_settle),
    Case("sound: a read-out that begins at 0", (), read_out_that_begins_at_zero),
]  # fmt: skip
