"""The clinic over numbers, by a stranger: what is NaN, out of range or of reach.

``PYTHONPATH=tests python ../shared/clinic/run.py tests/diagnosis/clinic_strange.py`` prints it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import throughtime as tt
from diagnosis.clinic_cases import Case, ce, traced


def mse(said: Tensor, wanted: Tensor) -> Tensor:
    return (said - wanted).pow(2).mean()


class Model(nn.Module):
    """A recurrent layer of torch, batch first, and a read-out."""

    def __init__(self, cell=nn.GRU, I=4, H=16, out=2, **options) -> None:
        super().__init__()
        self.rnn = cell(I, H, batch_first=True, **options)
        wide = options.get("proj_size") or H
        self.head = nn.Linear(wide * (2 if options.get("bidirectional") else 1), out)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0])


class Stepped(nn.Module):
    """A cell called once a step, over (B, T, I)."""

    def __init__(self, cell=nn.GRUCell, I=4, H=16, out=2, **options) -> None:
        super().__init__()
        self.cell, self.head = cell(I, H, **options), nn.Linear(H, out)

    def forward(self, x: Tensor, state=None) -> Tensor:
        found = []
        for t in range(x.shape[1]):
            state = self.cell(x[:, t], state)
            found.append(state[0] if isinstance(state, tuple) else state)
        return self.head(torch.stack(found, 1))


def last(model: nn.Module, x: Tensor, *more) -> tt.Flow:
    """A class asked after the last step."""
    y = torch.randint(2, (len(x),))
    return traced(model, lambda: ce(model(x, *more)[:, -1], y))


def each(model: nn.Module, x: Tensor, *more) -> tt.Flow:
    """A forecast at each step, one loss for all."""
    y = torch.randn(*x.shape[:2], model.head.out_features)
    return traced(model, lambda: mse(model(x, *more), y))


# NaN and inf in what comes in.


def mask_times_infinity(kept: bool = False) -> tt.Flow:
    torch.manual_seed(5)
    x = torch.rand(6, 14, 4)
    x[2, 9:] = 0
    logs, mask = x.log(), (x > 0).float()
    x = torch.where(mask > 0, logs, 0) if kept else logs * mask
    return last(Model(), x) if not kept else each(Model(), x)


def deviation_of_one_feature() -> tt.Flow:
    torch.manual_seed(5)
    x = torch.randn(6, 10, 1)
    x = (x - x.mean(-1, keepdim=True)) / x.std(-1, correction=0, keepdim=True)
    return each(Model(nn.RNN, 1, nonlinearity="relu"), x)


def returns_of_a_price_of_zero() -> tt.Flow:
    torch.manual_seed(5)
    price = 10 + torch.randn(6, 20, 1).cumsum(1)
    price[4, 11] = 0
    x = price[:, 1:] / price[:, :-1] - 1
    return each(Model(nn.LSTM, 1, 24, proj_size=6), x)


class Summaries(nn.Module):
    """Sentences are averaged, and a second layer reads the averages."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.rnn, self.head = nn.Embedding(30, 8), nn.LSTM(8, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        real = torch.arange(x.shape[-1]) < lengths[..., None]
        mean = (self.words(x) * real[..., None]).sum(-2) / lengths[..., None]
        return self.head(self.rnn(mean.transpose(0, 1))[0][-1])


def a_sentence_of_length_zero(least: int = 0) -> tt.Flow:
    torch.manual_seed(5)
    model, x, y = Summaries(), torch.randint(30, (5, 6, 7)), torch.randint(2, (5,))
    lengths = torch.randint(1, 8, (5, 6))
    lengths[3, 2] = least
    return traced(model, lambda: ce(model(x, lengths), y))


class Attending(nn.Module):
    """An encoder, and a decoder of cells that attends to it under a mask."""

    def __init__(self, cell=nn.LSTMCell) -> None:
        super().__init__()
        self.encoder = nn.GRU(4, 12, batch_first=True)
        self.cell, self.head = cell(12 + 4, 12), nn.Linear(12, 4)

    def forward(self, x: Tensor, mask: Tensor, y: Tensor) -> Tensor:
        keys, h = self.encoder(x)
        state, said = (h[0], torch.zeros_like(h[0])), []
        for t in range(y.shape[1]):
            scores = (keys @ state[0][..., None])[..., 0].masked_fill(~mask, -torch.inf)
            context = (scores.softmax(-1)[..., None] * keys).sum(1)
            state = self.cell(torch.cat((context, y[:, t]), -1), state)
            said.append(self.head(state[0]))
        return torch.stack(said, 1)


def attention_over_nothing(least: int = 0) -> tt.Flow:
    torch.manual_seed(5)
    model, x, y = Attending(), torch.randn(5, 9, 4), torch.randn(5, 6, 4)
    lengths = torch.tensor([9, 4, least, 7, 2])
    mask = torch.arange(9) < lengths[:, None]
    return traced(model, lambda: mse(model(x, mask, y)[:, :-1], y[:, 1:]))


class Normalised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.rnn = nn.BatchNorm1d(4), nn.GRU(4, 16, batch_first=True)
        self.head = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(self.norm(x.transpose(1, 2)).transpose(1, 2))[0])


def statistics_of_a_bad_batch() -> tt.Flow:
    torch.manual_seed(5)
    model, x = Normalised(), torch.randn(6, 9, 4)
    spoiled = x.clone()
    spoiled[0, 0, 2] = torch.nan
    model(spoiled)
    return each(model.eval(), x)


# Losses, and what they send.


def logarithm_of_a_softmax(scale: float = 1000) -> tt.Flow:
    torch.manual_seed(5)
    model, x, y = Model(nn.RNN, out=5), torch.randn(6, 9, 4), torch.randint(5, (6, 9))

    def loss() -> Tensor:
        p = (scale * model(x)).softmax(-1)
        return -p.gather(-1, y[..., None]).log().mean()

    return traced(model, loss)


def mean_over_an_empty_row(least: int = 0) -> tt.Flow:
    torch.manual_seed(5)
    model, x, y = Model(nn.LSTM, num_layers=2), torch.randn(5, 8, 4), torch.randn(5, 8, 2)
    lengths = torch.tensor([8, 5, least, 3, 8])
    mask = torch.arange(8) < lengths[:, None]

    def loss() -> Tensor:
        wrong = (model(x) - y).pow(2).mean(-1) * mask
        return (wrong.sum(1) / lengths).mean()

    return traced(model, loss)


def rates_without_a_bound(gain: float = 2000) -> tt.Flow:
    torch.manual_seed(5)
    model, x = Stepped(nn.LSTMCell, out=1), torch.randn(6, 12, 4)
    counts = torch.randint(9, (6, 12)).float()
    return traced(model, lambda: ((gain * model(x)[..., 0].abs()).exp() - counts).mean(0))


def masked_scores_times_targets() -> tt.Flow:
    torch.manual_seed(5)
    model, x = Model(nn.GRU, out=5, bidirectional=True), torch.randn(6, 9, 4)
    target = nn.functional.one_hot(torch.randint(4, (6, 9)), 5).float()

    def loss() -> Tensor:
        scores = model(x)
        scores = torch.cat((scores[..., :4], torch.full_like(scores[..., 4:], -torch.inf)), -1)
        return -(target * scores.log_softmax(-1)).sum(-1).mean()

    return traced(model, loss)


def angle_to_itself(shift: float = 0) -> tt.Flow:
    torch.manual_seed(5)
    rnn, x = nn.GRU(4, 16, batch_first=True), torch.randn(6, 9, 4)

    def loss() -> Tensor:
        a, b = rnn(x)[1][-1], rnn(x + shift)[1][-1]
        return nn.functional.cosine_similarity(a, b).clamp(-1, 1).acos().mean()

    return traced(rnn, loss)


def root_of_the_mean_of_nothing() -> tt.Flow:
    torch.manual_seed(5)
    model, x, y = Model(nn.LSTM, out=1), torch.randn(6, 9, 4), torch.zeros(6, 9, 1)
    nn.init.zeros_(model.head.weight)
    nn.init.zeros_(model.head.bias)
    return traced(model, lambda: (model(x) - y).pow(2).mean().sqrt())


def root_of_a_certainty(scale: float = 500) -> tt.Flow:
    """A focal loss whose weight has the power 1/2: where p is 1, its slope is infinite."""
    torch.manual_seed(5)
    model, x, y = Stepped(nn.RNNCell), torch.randn(6, 9, 4), torch.randint(2, (6, 9))

    def loss() -> Tensor:
        p = (scale * model(x)).softmax(-1).gather(-1, y[..., None])
        return (1 - p).sqrt().mean()

    return traced(model, loss)


def distance_between_equal_rows() -> tt.Flow:
    torch.manual_seed(5)
    rnn, x = nn.RNN(4, 12, 2, batch_first=True), torch.randn(5, 7, 4)
    x[3] = x[1]

    def loss() -> Tensor:
        h = rnn(x)[1][-1]
        d = (h[:, None] - h[None]).pow(2).sum(-1).sqrt()
        return (1 - d).clamp(0).mean()

    return traced(rnn, loss)


# Weights and states from before.


def after_an_update_by_nan() -> tt.Flow:
    torch.manual_seed(5)
    model, x = Stepped(nn.GRUCell, out=1), torch.randn(6, 7, 4)
    step = torch.optim.Adam(model.parameters(), 1e-2)
    (model(x) - model(x).detach()).pow(2).mean().sqrt().backward()
    step.step()
    return each(model, x)


def a_head_of_nan() -> tt.Flow:
    torch.manual_seed(5)
    model = Model(nn.LSTM, bidirectional=True)
    with torch.no_grad():
        model.head.bias[1] = torch.nan
    return each(model, torch.randn(6, 8, 4))


def norm_of_zero_weights() -> tt.Flow:
    torch.manual_seed(5)
    model = Model(nn.RNN, nonlinearity="relu")
    with torch.no_grad():
        model.rnn.weight_hh_l0[3] = 0
    parametrizations.weight_norm(model.rnn, "weight_hh_l0", dim=0)
    return each(model, torch.randn(6, 8, 4))


def state_from_no_neighbours() -> tt.Flow:
    torch.manual_seed(5)
    model, x = Stepped(nn.LSTMCell), torch.randn(6, 8, 4)
    many = torch.tensor([3.0, 1, 2, 0, 4, 1])
    near = torch.where(many > 0, 1.0, 0.0)[:, None] * torch.randn(6, 16)
    return each(model, x, (torch.zeros(6, 16), near / many[:, None]))


def state_left_by_a_bad_batch() -> tt.Flow:
    torch.manual_seed(5)
    rnn, head = nn.LSTM(4, 12, 2, batch_first=True, bidirectional=True), nn.Linear(24, 2)
    x = torch.randn(6, 8, 4)
    spoiled = x.clone()
    spoiled[1, 4, 0] = torch.inf
    with torch.no_grad():
        state = rnn(spoiled - spoiled.mean(1, keepdim=True))[1]
    return traced(rnn, lambda: head(rnn(x, state)[0]).pow(2).mean())


# Numbers that grow or go out inside.


class Leaning(nn.Module):
    """A recurrence written out in the forward pass."""

    def __init__(self, step, H=12) -> None:
        super().__init__()
        self.step, self.U, self.W = step, nn.Linear(4, H), nn.Linear(H, H, bias=False)
        self.head = nn.Linear(H, 1)

    def forward(self, x: Tensor) -> Tensor:
        h, found = torch.zeros(len(x), self.U.out_features), []
        for t in range(x.shape[1]):
            h = tt.mark("core", self.step(self.U(x[:, t]), h, self.W))
            found.append(h)
        return self.head(torch.stack(found, 1))


def sum_without_decay() -> tt.Flow:
    torch.manual_seed(5)
    return each(Leaning(lambda u, h, W: 2.2 * h + u), torch.randn(4, 125, 4))


def relu_both_ways_doubles() -> tt.Flow:
    torch.manual_seed(5)
    model = Model(nn.RNN, H=12, nonlinearity="relu", bidirectional=True)
    with torch.no_grad():
        model.rnn.weight_hh_l0_reverse.copy_(3 * torch.eye(12))
    return each(model, torch.rand(4, 100, 4))


def silent_cells_of_gain_nine() -> tt.Flow:
    torch.manual_seed(5)
    model = Stepped(nn.RNNCell, bias=False)
    with torch.no_grad():
        model.cell.weight_hh.copy_(9 * torch.linalg.qr(torch.randn(16, 16))[0])
    return last(model, torch.zeros(4, 110, 4))


def linear_of_gain_twelve_over_silence() -> tt.Flow:
    torch.manual_seed(5)
    rnn = tt.RNN(4, 12, nonlinearity="identity", bias=False, batch_first=True)
    with torch.no_grad():
        rnn.weight_hh_l0.copy_(12 * torch.eye(12))
    x, y = torch.zeros(4, 60, 4), torch.ones(4, 12)
    return traced(rnn, lambda: (rnn(x)[1][0] - y).pow(2).sum())


def root_in_the_recurrence() -> tt.Flow:
    torch.manual_seed(5)
    model, x = Leaning(lambda u, h, W: (u + W(h)).tanh()), torch.randn(4, 9, 4)
    model.step = lambda u, h, W: torch.where(u + W(h) > 0, (u + W(h)).sqrt(), torch.zeros(())) * 0.5
    return each(model, x)


def root_of_a_state_set_to_zero() -> tt.Flow:
    """A row's state is multiplied by 0 where a new episode begins."""
    torch.manual_seed(5)
    goes_on = torch.ones(9, 4, 1)
    goes_on[5, 2] = 0
    kept = iter(goes_on)
    model = Leaning(lambda u, h, W: (u + W(h.abs() ** 0.5)).tanh() * next(kept))
    return each(model, torch.randn(4, 9, 4))


def far_behind_a_projection(T: int = 110) -> tt.Flow:
    torch.manual_seed(5)
    return last(Model(nn.LSTM, H=32, proj_size=8), torch.randn(8, T, 4))


def far_in_relu() -> tt.Flow:
    torch.manual_seed(5)
    return last(Model(nn.RNN, H=32, nonlinearity="relu"), torch.randn(8, 120, 4))


def first_word_of_a_long_text(T: int = 90) -> tt.Flow:
    """The class of the first word, asked at the end, both directions' last states."""
    torch.manual_seed(5)
    rnn, head = nn.GRU(8, 16, 2, batch_first=True), nn.Linear(16, 8)
    x = nn.functional.one_hot(torch.randint(8, (6, T)), 8).float()
    return traced(rnn, lambda: ce(head(rnn(x)[1][-1]), x[:, 0].argmax(-1)))


def sigmoid_far(T: int = 140) -> tt.Flow:
    torch.manual_seed(5)
    return last(Leaning2(T), torch.randn(4, T, 4))


class Leaning2(Leaning):
    """A logistic recurrence with two classes."""

    def __init__(self, T: int) -> None:
        super().__init__(lambda u, h, W: (u + W(h)).sigmoid())
        self.head = nn.Linear(12, 2)


def hardly_any_recurrence() -> tt.Flow:
    torch.manual_seed(5)
    model = Stepped(nn.RNNCell)
    with torch.no_grad():
        model.cell.weight_hh.mul_(1e-3)
    return last(model, torch.randn(4, 60, 4))


def chaos(gain: float = 3.5) -> tt.Flow:
    torch.manual_seed(5)
    model = Model(nn.RNN, H=48)
    with torch.no_grad():
        model.rnn.weight_hh_l0.normal_(0, gain / 48**0.5)
    return last(model, 0.1 * torch.randn(6, 60, 4))


def relu_beyond_the_identity(gain: float = 1.25) -> tt.Flow:
    torch.manual_seed(5)
    model = Stepped(nn.RNNCell, nonlinearity="relu")
    with torch.no_grad():
        model.cell.weight_hh.copy_(gain * torch.eye(16))
    return each(model, torch.rand(6, 50, 4))


def gru_of_large_candidates(gain: float = 6) -> tt.Flow:
    torch.manual_seed(5)
    model = Model(nn.GRU, H=32)
    with torch.no_grad():
        model.rnn.weight_hh_l0[64:].copy_(gain * torch.linalg.qr(torch.randn(32, 32))[0])
        model.rnn.bias_ih_l0[:32] = 3
    return last(model, 0.1 * torch.randn(6, 50, 4))


# Scale, saturation, dead units.


def pixels_row_by_row(scale: float = 1) -> tt.Flow:
    torch.manual_seed(5)
    x = torch.randint(256, (6, 16, 16)).float()
    return last(Model(nn.GRU, 16), x / scale - (0.5 if scale > 1 else 0))


def market_table(scaled: bool = False) -> tt.Flow:
    torch.manual_seed(5)
    price = 100 + torch.randn(6, 24, 4).cumsum(1)
    x = torch.cat((price, 1e6 * (1 + torch.rand(6, 24, 1))), -1)
    if scaled:
        x = (x - x.mean((0, 1))) / x.std((0, 1))
    return each(Model(nn.LSTM, 5, 20, proj_size=5), x)


def seconds_since_the_start(scaled: bool = False) -> tt.Flow:
    torch.manual_seed(5)
    t = torch.randint(3600, (6, 15)).cumsum(1)[..., None].float()
    x = torch.cat(((t - t.mean()) / t.std() if scaled else t, torch.randn(6, 15, 3)), -1)
    return each(Stepped(nn.LSTMCell), x)


class OwnLSTM(nn.LSTM):
    """torch's layer with a residual path, as people derive from it."""

    def forward(self, x, hx=None):
        h, state = super().forward(x, hx)
        return h + 1, state


def numbers_of_words_as_numbers() -> tt.Flow:
    torch.manual_seed(5)
    return each(Model(OwnLSTM, 1), torch.randint(30_000, (6, 12, 1)).float())


def large_numbers_into_relu() -> tt.Flow:
    torch.manual_seed(5)
    x = 50_000 + 9_000 * torch.randn(6, 12, 3)
    return each(Model(nn.RNN, 3, nonlinearity="relu"), x)


def never_updated(bias: float = 18) -> tt.Flow:
    torch.manual_seed(5)
    model = Stepped(nn.GRUCell)
    with torch.no_grad():
        model.cell.bias_hh[16:32] = bias
    return each(model, torch.randn(6, 15, 4))


def pinned_by_bias(bias: float = 12) -> tt.Flow:
    torch.manual_seed(5)
    model = Model(nn.RNN, bidirectional=True)
    with torch.no_grad():
        model.rnn.bias_ih_l0 += bias
        model.rnn.bias_ih_l0_reverse -= bias
    return each(model, torch.randn(6, 15, 4))


def closed_output(bias: float = -16) -> tt.Flow:
    torch.manual_seed(5)
    model = Stepped(nn.LSTMCell)
    with torch.no_grad():
        model.cell.bias_ih[48:] = bias
    return each(model, torch.randn(6, 15, 4))


def recurrence_grown_by_training() -> tt.Flow:
    torch.manual_seed(5)
    model = Model(nn.RNN, num_layers=2)
    with torch.no_grad():
        model.rnn.weight_hh_l1.mul_(60)
    return each(model, torch.randn(6, 15, 4))


def dead_backwards() -> tt.Flow:
    torch.manual_seed(5)
    model = Model(nn.RNN, nonlinearity="relu", bidirectional=True)
    with torch.no_grad():
        model.rnn.bias_hh_l0_reverse.fill_(-7)
    return each(model, torch.randn(6, 15, 4))


def negative_weights_over_pixels() -> tt.Flow:
    torch.manual_seed(5)
    model = Stepped(nn.RNNCell, nonlinearity="relu")
    with torch.no_grad():
        model.cell.weight_ih.copy_(-model.cell.weight_ih.abs() - 0.4)
        model.cell.bias_ih.fill_(-0.5)
        model.cell.bias_hh.fill_(-0.5)
    return each(model, 0.5 + 0.5 * torch.rand(6, 15, 4))


def killed_by_one_update() -> tt.Flow:
    torch.manual_seed(5)
    model, x = Model(nn.RNN, out=1, nonlinearity="relu"), torch.rand(6, 15, 4)
    nn.init.uniform_(model.head.weight, 0.5, 1)
    (model(x)).mul(30).mean().backward()
    torch.optim.SGD(model.parameters(), 1.0).step()
    return each(model, x)


def half_and_a_small_weight() -> tt.Flow:
    torch.manual_seed(5)
    model, x = Model(nn.LSTM), torch.randn(6, 10, 4)

    def loss() -> Tensor:
        with torch.autocast("cpu", torch.float16):
            return 1e-8 * model(x).float().pow(2).mean()

    return traced(model, loss)


CASES = [
    Case("a mask times -inf", ("input-nonfinite",), mask_times_infinity,
         lambda: mask_times_infinity(True)),
    Case("deviation of one feature", ("input-nonfinite",), deviation_of_one_feature),
    Case("returns of a price of 0", ("input-nonfinite",), returns_of_a_price_of_zero),
    Case("a sentence of length 0", ("input-nonfinite",), a_sentence_of_length_zero,
         lambda: a_sentence_of_length_zero(1)),
    Case("attention over nothing", ("input-nonfinite",), attention_over_nothing,
         lambda: attention_over_nothing(1)),
    Case("statistics of a bad batch", ("input-nonfinite", "weight-nonfinite"),
         statistics_of_a_bad_batch),
    Case("log of a softmax", ("loss-nonfinite",), logarithm_of_a_softmax,
         lambda: logarithm_of_a_softmax(1)),
    Case("mean over an empty row", ("loss-nonfinite",), mean_over_an_empty_row,
         lambda: mean_over_an_empty_row(2)),
    Case("rates without a bound", ("loss-nonfinite",), rates_without_a_bound,
         lambda: rates_without_a_bound(1)),
    Case("0 times -inf in the targets", ("loss-nonfinite",), masked_scores_times_targets),
    Case("angle to itself", ("loss-gradient-nonfinite",), angle_to_itself,
         lambda: angle_to_itself(1)),
    Case("root of the mean of nothing", ("loss-gradient-nonfinite",), root_of_the_mean_of_nothing),
    Case("root of a certainty", ("loss-gradient-nonfinite",), root_of_a_certainty,
         lambda: root_of_a_certainty(1)),
    Case("distance of equal rows", ("loss-gradient-nonfinite",), distance_between_equal_rows),
    Case("after an update by NaN", ("weight-nonfinite",), after_an_update_by_nan),
    Case("NaN in the read-out", ("weight-nonfinite",), a_head_of_nan),
    Case("norm of zero weights", ("weight-nonfinite",), norm_of_zero_weights),
    Case("state from no neighbours", ("initial-state-nonfinite",), state_from_no_neighbours),
    Case("state left by a bad batch", ("initial-state-nonfinite",), state_left_by_a_bad_batch),
    Case("a sum without decay", ("state-overflow",), sum_without_decay),
    Case("ReLU doubles backwards", ("state-overflow",), relu_both_ways_doubles),
    Case("silent cells of gain 9", ("gradient-overflow",), silent_cells_of_gain_nine),
    Case("linear of gain 12, silent", ("gradient-overflow",), linear_of_gain_twelve_over_silence),
    Case("a root chosen by where", ("derivative-nonfinite",), root_in_the_recurrence),
    Case("a root of the state at 0", ("derivative-nonfinite",), root_of_a_state_set_to_zero),
    Case("far behind a projection", ("vanishes",), far_behind_a_projection,
         lambda: far_behind_a_projection(6)),
    Case("far in ReLU", ("vanishes",), far_in_relu),
    Case("the first word of a long text", ("vanishes",), first_word_of_a_long_text,
         lambda: first_word_of_a_long_text(4)),
    Case("logistic, far", ("underflow", "vanishes"), sigmoid_far),
    Case("hardly any recurrence", ("underflow", "vanishes"), hardly_any_recurrence),
    Case("chaos", ("explodes",), chaos, lambda: chaos(0.9)),
    Case("ReLU beyond the identity", ("explodes",), relu_beyond_the_identity,
         lambda: relu_beyond_the_identity(1)),
    Case("large candidates of a GRU", ("explodes", "saturated"), gru_of_large_candidates,
         lambda: gru_of_large_candidates(1)),
    Case("pixels row by row", ("input-scale",), pixels_row_by_row,
         lambda: pixels_row_by_row(255)),
    Case("a market's table", ("input-scale",), market_table, lambda: market_table(True)),
    Case("seconds since the start", ("input-scale",), seconds_since_the_start,
         lambda: seconds_since_the_start(True)),
    Case("numbers of words as numbers", ("input-scale",), numbers_of_words_as_numbers),
    Case("large numbers into ReLU", ("input-scale",), large_numbers_into_relu),
    Case("never updated", ("saturated",), never_updated, lambda: never_updated(1)),
    Case("pinned by a bias, both ways", ("saturated",), pinned_by_bias,
         lambda: pinned_by_bias(0)),
    Case("closed output", ("saturated",), closed_output, lambda: closed_output(-1)),
    Case("recurrence grown in layer two", ("saturated",), recurrence_grown_by_training),
    Case("dead backwards", ("dead-units",), dead_backwards),
    Case("negative weights over pixels", ("dead-units",), negative_weights_over_pixels),
    Case("killed by one update", ("dead-units",), killed_by_one_update),
    Case("half precision, small weight of the loss", ("half-underflow",), half_and_a_small_weight),
]  # fmt: skip
