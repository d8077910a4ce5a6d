"""The clinic over data and wiring: what comes in, what is read, where a state or a gradient ends.

``PYTHONPATH=tests python ../shared/clinic/run.py tests/diagnosis/clinic_wired.py`` prints it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

import throughtime as tt
from diagnosis.clinic_cases import Case, ce, traced
from diagnosis.clinic_loops import Cells
from diagnosis.clinic_numbers import Reader, mse


def each_step(model: nn.Module, x: Tensor, seed: int = 2) -> tt.Flow:
    """A forecast of noise, a loss at every step."""
    torch.manual_seed(seed)
    y = torch.randn(*x.shape[:2], 1)
    return traced(model, lambda: (model(x) - y).pow(2).mean((1, 2)))


# What comes in.


def a_timestamp_among_features(scaled: bool = False) -> tt.Flow:
    torch.manual_seed(2)
    x = torch.randn(24, 8, 12)
    x[..., 5] = 1.7e9 + 3600 * torch.arange(24)[:, None] + torch.randint(10**6, (8,))
    if scaled:
        x[..., 5] = (x[..., 5] - x[..., 5].mean()) / x[..., 5].std()
    return each_step(Reader(nn.GRU(12, 24, bidirectional=True)), x)


def visits_a_day(scaled: bool = False) -> tt.Flow:
    torch.manual_seed(2)
    x = torch.randn(20, 8, 2).mul(1.5).add(6).exp()  # counts with a long tail
    return each_step(Reader(tt.LSTM(2, 24)), x.log() - 6 if scaled else x)


def sound_as_integers(scaled: bool = False) -> tt.Flow:
    torch.manual_seed(2)
    x = 8_000 * torch.randn(40, 4, 1)
    return each_step(Reader(nn.GRU(1, 20, num_layers=2)), x / 32_768 if scaled else x)


def one_hot_times_a_hundred(scale: float = 100) -> tt.Flow:
    torch.manual_seed(2)
    x = scale * nn.functional.one_hot(torch.randint(10, (15, 8)), 10).float()
    return each_step(tt.convert(Reader(nn.LSTM(10, 24))), x)


def wild_embedding(scale: float = 60) -> tt.Flow:
    torch.manual_seed(2)
    model = Reader(nn.LSTM(16, 24), out=50, front=nn.Embedding(50, 16))
    with torch.no_grad():
        model.front.weight.mul_(scale)
    x, y = torch.randint(50, (12, 8)), torch.randint(50, (12, 8))
    return traced(model, lambda: ce(model(x).transpose(1, 2), y, reduction="none").mean(1))


def packed_prices() -> tt.Flow:
    torch.manual_seed(2)
    rows = [500 + 10 * torch.randn(n, 1).cumsum(0) for n in (18, 15, 12, 9)]
    rnn, out = nn.GRU(1, 20), nn.Linear(20, 1)

    def loss() -> Tensor:
        packed = pack_padded_sequence(pad_sequence(rows), torch.tensor([18, 15, 12, 9]))
        return (out(rnn(packed)[1][-1]) - 500).pow(2).mean()

    return traced(rnn, loss)


def kelvin_in_a_cell(shift: float = 290) -> tt.Flow:
    torch.manual_seed(2)
    x = shift + 5 * torch.randn(16, 8, 4)
    return each_step(Cells(nn.GRUCell, 4, 24, out=1), x)


def years_in_double(scaled: bool = False) -> tt.Flow:
    torch.manual_seed(2)
    x = torch.stack((torch.randn(20, 6), 1990 + torch.randint(30, (20, 6))), -1).double()
    if scaled:
        x[..., 1] = (x[..., 1] - 2005) / 10
    return each_step(Reader(nn.RNN(2, 20)).double(), x)


# What holds units at their ends.


def drawn_from_a_unit_normal(std: float = 1.0) -> tt.Flow:
    torch.manual_seed(2)
    model = Reader(nn.LSTM(4, 128))
    for p in model.rnn.parameters():
        nn.init.normal_(p, std=std)
    return each_step(model, torch.randn(20, 6, 4))


def input_gate_shut(bias: float = -15) -> tt.Flow:
    torch.manual_seed(2)
    model = Cells(nn.LSTMCell, 4, 24, out=1)
    with torch.no_grad():
        model.cell.bias_ih[:24] = bias
    return each_step(model, torch.randn(16, 6, 4))


def recurrence_of_a_hundred(gain: float = 100) -> tt.Flow:
    torch.manual_seed(2)
    model = Reader(tt.GRU(4, 32))
    with torch.no_grad():
        model.rnn.weight_hh_l0.mul_(gain)
    return each_step(model, torch.randn(20, 6, 4))


def dead_above(bias: float = -6) -> tt.Flow:
    torch.manual_seed(2)
    model = Reader(nn.RNN(4, 24, num_layers=2, nonlinearity="relu"))
    with torch.no_grad():
        model.rnn.bias_hh_l1.add_(bias)
    return each_step(model, torch.randn(14, 6, 4))


def dead_after_one_update(lr: float = 30.0) -> tt.Flow:
    torch.manual_seed(2)
    model, x = Reader(nn.RNN(4, 24, nonlinearity="relu")), torch.rand(14, 6, 4)
    nn.init.constant_(model.out.weight, 0.3)
    sgd = torch.optim.SGD(model.rnn.parameters(), lr=lr)
    model(x).mean().backward()
    sgd.step()
    return each_step(model, x)


# What is read.


def texts(many: int = 8, longest: int = 60) -> tuple[Tensor, Tensor]:
    """Rows of word numbers, and their lengths."""
    torch.manual_seed(2)
    lengths = torch.randint(4, 12, (many,))
    rows = [torch.randint(1, 40, (int(n),)) for n in lengths]
    rows.append(torch.randint(1, 40, (longest,)))
    return pad_sequence(rows, batch_first=True), torch.cat((lengths, torch.tensor([longest])))


def last_state_of_padded_texts(packed: bool = False, rows: int = 8) -> tt.Flow:
    x, lengths = texts(rows)
    x, lengths = (x[:-1, :12], lengths[:-1]) if packed else (x, lengths)
    torch.manual_seed(2)
    words, out = nn.Embedding(40, 8, padding_idx=0), nn.Linear(24, 2)
    rnn, y = nn.GRU(8, 24, batch_first=True), torch.randint(2, (len(x),))

    def loss() -> Tensor:
        e = words(x)
        if packed:
            e = pack_padded_sequence(e, lengths, batch_first=True, enforce_sorted=False)
        return ce(out(rnn(e)[1][-1]), y)

    return traced(rnn, loss)


def both_last_states_of_padded_texts() -> tt.Flow:
    x, _ = texts(12)
    torch.manual_seed(2)
    words, rnn = nn.Embedding(40, 8), nn.LSTM(8, 20, batch_first=True, bidirectional=True)
    out, y = nn.Linear(40, 2), torch.randint(2, (len(x),))

    def loss() -> Tensor:
        h_n = rnn(words(x))[1][0]
        return ce(out(torch.cat((h_n[-2], h_n[-1]), 1)), y)

    return traced(rnn, loss)


def frames_padded_with_minus_ten() -> tt.Flow:
    torch.manual_seed(2)
    rows = [torch.randn(int(n), 5) for n in torch.randint(4, 10, (10,))]
    rows.append(torch.randn(50, 5))
    x, y = pad_sequence(rows, padding_value=-10.0), torch.randn(11, 1)
    rnn, out = tt.LSTM(5, 24), nn.Linear(24, 1)
    return traced(rnn, lambda: mse(out(rnn(x)[0][-1]), y))


def padded_in_a_loop() -> tt.Flow:
    x, _ = texts(10, 45)
    torch.manual_seed(2)
    words, model = nn.Embedding(40, 4), Cells(nn.GRUCell)
    y = torch.randint(2, (len(x),))
    return traced(model, lambda: ce(model(words(x.T))[-1], y))


def end_of_both_directions(mean: bool = False, cell: type = nn.GRU) -> tt.Flow:
    torch.manual_seed(2)
    rnn, out = tt.convert(cell(6, 20, bidirectional=True)), nn.Linear(40, 3)
    x, y = torch.randn(10, 8, 6), torch.randint(3, (8,))

    def loss() -> Tensor:
        h = rnn(x)[0]
        return ce(out(h.mean(0) if mean else h[-1]), y)

    return traced(rnn, loss)


def own_last_step_of_both_directions() -> tt.Flow:
    torch.manual_seed(2)
    rnn, out = nn.LSTM(6, 20, batch_first=True, bidirectional=True), nn.Linear(40, 2)
    x, lengths, y = torch.randn(6, 12, 6), torch.tensor([12, 11, 9, 8, 8, 6]), torch.arange(6) % 2

    def loss() -> Tensor:
        packed = rnn(pack_padded_sequence(x, lengths, batch_first=True))[0]
        h = pad_packed_sequence(packed, batch_first=True)[0]
        return ce(out(h[torch.arange(6), lengths - 1]), y)

    return traced(rnn, loss)


def upper_layer_both_directions() -> tt.Flow:
    torch.manual_seed(2)
    rnn, out = nn.RNN(6, 20, num_layers=2, batch_first=True, bidirectional=True), nn.Linear(40, 1)
    x, y = torch.randn(8, 9, 6), torch.randn(8, 1)
    return traced(rnn, lambda: mse(out(rnn(x)[0].select(1, -1)), y))


def words_with_axes_swapped(first: bool = False) -> tt.Flow:
    torch.manual_seed(2)
    words, rnn = nn.Embedding(40, 8), nn.LSTM(8, 20, num_layers=2, batch_first=first)
    out, x, y = nn.Linear(20, 2), torch.randint(40, (32, 9)), torch.randint(2, (32,))
    return traced(rnn, lambda: ce(out(rnn(words(x))[0][:, -1]), y))


def time_first_taken_for_batch() -> tt.Flow:
    torch.manual_seed(2)
    rnn, out = tt.GRU(5, 20, batch_first=True), nn.Linear(20, 1)
    x, y = (
        torch.randn(40, 12, 5),
        torch.randn(12, 1),
    )  # (time, batch, features) as the loader has it
    return traced(rnn, lambda: mse(out(rnn(x)[0][-1]), y))


# Where a gradient or a state ends.


def encoder(mode: str) -> tt.Flow:
    torch.manual_seed(2)
    below, above, out = nn.LSTM(4, 16), nn.GRU(16, 16), nn.Linear(16, 1)
    model = nn.ModuleDict({"below": below, "above": above, "out": out})
    x, y = torch.randn(12, 6, 4), torch.randn(12, 6, 1)

    def losses() -> Tensor:
        if mode == "no_grad":
            with torch.no_grad():
                h = below(x)[0]
        else:
            h = below(x)[0]
            h = h.data if mode == "data" else torch.tensor(h.tolist()) if mode == "list" else h
        return (out(above(h)[0]) - y).pow(2).mean((1, 2))

    return traced(model, losses)


def lower_state_read() -> tt.Flow:
    torch.manual_seed(2)
    rnn, out = tt.LSTM(4, 16, num_layers=3), nn.Linear(16, 2)
    x, y = torch.randn(10, 6, 4), torch.randint(2, (6,))
    return traced(rnn, lambda: ce(out(rnn(x)[1][0][0]), y))


class Cut(nn.Module):
    """A loop over a cell that passes its state through ``pass_on`` at the steps ``at``."""

    def __init__(self, cell: type, pass_on, at=range(1, 99)) -> None:
        super().__init__()
        self.cell, self.out, self.pass_on, self.at = cell(4, 16), nn.Linear(16, 1), pass_on, at

    def forward(self, x: Tensor) -> Tensor:
        state, found = None, []
        for t, x_t in enumerate(x):
            if state is not None and t in self.at:
                state = self.pass_on(state)
            state = self.cell(x_t, state)
            found.append(self.out(state[0] if isinstance(state, tuple) else state))
        return torch.stack(found)


def cut(cell: type, pass_on, at=range(1, 99)) -> tt.Flow:
    torch.manual_seed(2)
    return each_step(Cut(cell, pass_on, at), torch.randn(15, 6, 4))


def first_half_without_gradient(kept: bool = False) -> tt.Flow:
    torch.manual_seed(2)
    rnn, out = nn.GRU(4, 16), nn.Linear(16, 1)
    x, y = torch.randn(16, 6, 4), torch.randn(6, 1)

    def loss() -> Tensor:
        with torch.set_grad_enabled(kept):
            h = rnn(x[:10])[1]
        return mse(out(rnn(x[10:], h)[0][-1]), y)

    return traced(rnn, loss)


def segments_with_one_loss(detached: bool = True) -> tt.Flow:
    torch.manual_seed(2)
    rnn, out = tt.convert(nn.LSTM(4, 16, num_layers=2, batch_first=True)), nn.Linear(16, 1)
    x, y = torch.randn(6, 20, 4), torch.randn(6, 20, 1)

    def loss() -> Tensor:
        state, total = None, torch.zeros(())
        for part, wanted in zip(x.split(5, 1), y.split(5, 1), strict=True):
            h, state = rnn(part, state)
            if detached:
                state = tuple(s.clone().detach() for s in state)
            total = total + mse(out(h), wanted)
        return total

    return traced(rnn, loss)


class Keeps(nn.Module):
    """A layer that keeps its state from one batch to the next."""

    def __init__(self, cell: str, detach: bool) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(4, 16) if cell == "cell" else nn.LSTM(4, 16)
        self.out, self.state, self.detach = nn.Linear(16, 1), None, detach

    def forward(self, x: Tensor) -> Tensor:
        state = self.state
        if self.detach and state is not None:
            state = tuple(s.detach() for s in state)
        if isinstance(self.cell, nn.LSTM):
            h, self.state = self.cell(x, state)
            return self.out(h)
        found = []
        for x_t in x:
            state = self.cell(x_t, state)
            found.append(state[0])
        self.state = state
        return self.out(torch.stack(found))


def kept(cell: str, detach: bool = False) -> tt.Flow:
    torch.manual_seed(2)
    model, x = Keeps(cell, detach), torch.randn(10, 6, 4)
    model(x).pow(2).mean().backward()
    return each_step(model, x)


def second_loss_forgotten(added: bool = False) -> tt.Flow:
    torch.manual_seed(2)
    rnn, first, second = nn.GRU(4, 16), nn.Linear(16, 1), nn.Linear(16, 3)
    model = nn.ModuleDict({"rnn": rnn, "price": first, "kind": second})
    x, y, kind = torch.randn(10, 6, 4), torch.randn(6, 1), torch.randint(3, (6,))

    def losses() -> Tensor:
        h = rnn(x)[1][-1]
        price = mse(first(h), y)
        return price + ce(second(h), kind) if added else price

    return traced(model, losses)


def initial_state_not_passed(passed: bool = False) -> tt.Flow:
    torch.manual_seed(2)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.out = nn.GRU(4, 16), nn.Linear(16, 1)
            self.h_0 = nn.Parameter(torch.zeros(1, 1, 16))

        def forward(self, x: Tensor) -> Tensor:
            state = self.h_0.expand(-1, x.shape[1], -1).contiguous() if passed else None
            return self.out(self.rnn(x, state)[0])

    return each_step(Model(), torch.randn(10, 6, 4))


def h_alone(state):
    return state[0].detach(), state[1]


def detached(state):
    return tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()


CASES = [
    Case("a timestamp among features", ("input-scale",), a_timestamp_among_features,
         lambda: a_timestamp_among_features(True)),
    Case("visits a day", ("input-scale",), visits_a_day, lambda: visits_a_day(True)),
    Case("sound as integers", ("input-scale",), sound_as_integers, lambda: sound_as_integers(True)),
    Case("one-hot times a hundred", ("input-scale",), one_hot_times_a_hundred,
         lambda: one_hot_times_a_hundred(1)),
    Case("a wild embedding", ("input-scale",), wild_embedding, lambda: wild_embedding(1)),
    Case("packed prices", ("input-scale",), packed_prices),
    Case("kelvin in a cell", ("input-scale",), kelvin_in_a_cell, lambda: kelvin_in_a_cell(0)),
    Case("years in double", ("input-scale",), years_in_double, lambda: years_in_double(True)),
    Case("drawn from a unit normal", ("saturated", "explodes"), drawn_from_a_unit_normal,
         lambda: drawn_from_a_unit_normal(0.08)),
    Case("input gate shut", ("saturated",), input_gate_shut, lambda: input_gate_shut(0)),
    Case("recurrence of a hundred", ("saturated",), recurrence_of_a_hundred,
         lambda: recurrence_of_a_hundred(1)),
    Case("dead in the layer above", ("dead-units",), dead_above, lambda: dead_above(0)),
    Case("dead after one update", ("dead-units",), dead_after_one_update,
         lambda: dead_after_one_update(0.01)),
    Case("last state of padded texts", ("reads-padding",), last_state_of_padded_texts,
         lambda: last_state_of_padded_texts(True)),
    Case("both last states of padded texts", ("reads-padding",), both_last_states_of_padded_texts),
    Case("frames padded with -10", ("reads-padding",), frames_padded_with_minus_ten),
    Case("padded in a loop", ("reads-padding",), padded_in_a_loop),
    Case("GRU both ways at [-1]", ("reverse-reads-one-step",), end_of_both_directions,
         lambda: end_of_both_directions(True)),
    Case("each row's last step, both ways", ("reverse-reads-one-step",),
         own_last_step_of_both_directions),
    Case("RNN of two layers both ways", ("reverse-reads-one-step",), upper_layer_both_directions),
    Case("words with axes swapped", ("rows-without-gradient",), words_with_axes_swapped,
         lambda: words_with_axes_swapped(True)),
    Case("time first taken for batch", ("rows-without-gradient",), time_first_taken_for_batch),
    Case("encoder under no_grad", ("no-gradient",), lambda: encoder("no_grad"),
         lambda: encoder("with it")),
    Case("encoder through .data", ("no-gradient",), lambda: encoder("data")),
    Case("encoder through a list", ("no-gradient",), lambda: encoder("list")),
    Case("state of the lowest layer read", ("no-gradient",), lower_state_read),
    Case("h alone detached", ("state-cut",), lambda: cut(nn.LSTMCell, h_alone),
         lambda: cut(nn.LSTMCell, lambda s: s)),
    Case("detached at every step", ("state-cut",), lambda: cut(nn.GRUCell, detached)),
    Case("detached once", ("state-cut",), lambda: cut(nn.RNNCell, detached, (7,))),
    Case("state through .data", ("state-cut",), lambda: cut(nn.GRUCell, lambda s: s.data, (5, 10))),
    Case("first half without gradient", ("state-cut",), first_half_without_gradient,
         lambda: first_half_without_gradient(True)),
    Case("segments with one loss", ("state-cut",), segments_with_one_loss,
         lambda: segments_with_one_loss(False)),
    Case("a layer keeps its state", ("state-on-old-graph",), lambda: kept("layer"),
         lambda: kept("layer", True)),
    Case("a cell keeps its state", ("state-on-old-graph",), lambda: kept("cell"),
         lambda: kept("cell", True)),
    Case("the second loss is forgotten", ("parameter-unreached",), second_loss_forgotten,
         lambda: second_loss_forgotten(True)),
    Case("the initial state is not passed", ("parameter-unreached",), initial_state_not_passed,
         lambda: initial_state_not_passed(True)),
]  # fmt: skip
