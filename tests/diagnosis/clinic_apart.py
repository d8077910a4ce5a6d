"""The clinic over what lies apart: parts of a state, dropout over padding, halves, own losses.

``PYTHONPATH=tests python ../shared/clinic/run.py tests/diagnosis/clinic_apart.py`` prints it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import throughtime as tt
from diagnosis.clinic_cases import Case, ce, traced
from diagnosis.clinic_numbers import Reader
from diagnosis.clinic_wired import each_step, h_alone, texts


def one_step_a_call(pass_on, layers: int = 1) -> tt.Flow:
    """A layer of torch that is called for one step at a time."""
    torch.manual_seed(7)
    rnn, x = nn.LSTM(4, 16, num_layers=layers), torch.randn(12, 6, 4)

    def losses() -> Tensor:
        state, found = None, []
        for x_t in x:
            h, state = rnn(x_t[None], state if state is None else pass_on(state))
            found.append(h.pow(2).mean())
        return torch.stack(found)

    return traced(rnn, losses)


def memory_alone_detached() -> tt.Flow:
    torch.manual_seed(7)
    cell, x = nn.LSTMCell(4, 16), torch.randn(12, 6, 4)

    def losses() -> Tensor:
        state, found = None, []
        for x_t in x:
            state = cell(x_t, state if state is None else (state[0], state[1].detach()))
            found.append(state[0].pow(2).mean())
        return torch.stack(found)

    return traced(cell, losses)


def flattened_and_read_at_the_end() -> tt.Flow:
    torch.manual_seed(7)
    rnn, out, x = nn.GRU(4, 16), nn.Linear(16, 2), torch.randn(10, 16, 4)
    return traced(rnn, lambda: (out(rnn(x)[0].view(-1, 16)[-1]) - 1).pow(2).mean())


def halves(swapped: bool) -> tt.Flow:
    """Each direction's output at its own end, or at the other's."""
    torch.manual_seed(7)
    rnn, out = nn.LSTM(4, 16, batch_first=True, bidirectional=True), nn.Linear(32, 2)
    x, first, last = torch.randn(8, 9, 4), *((0, -1) if swapped else (-1, 0))

    def loss() -> Tensor:
        h = rnn(x)[0]
        return ce(out(torch.cat((h[:, first, :16], h[:, last, 16:]), -1)), torch.arange(8) % 2)

    return traced(rnn, loss)


def dropout_over_padding(p: float, I: int = 8, padding: int | None = None) -> tt.Flow:
    x, _ = texts(8, 40)
    torch.manual_seed(7)
    words, rnn = nn.Embedding(40, I, padding_idx=padding), nn.LSTM(I, 20, batch_first=True)
    out, y = nn.Linear(20, 2), torch.arange(len(x)) % 2
    return traced(rnn, lambda: ce(out(rnn(nn.functional.dropout(words(x), p))[1][0][-1]), y))


def dropout_alone(p: float) -> tt.Flow:
    torch.manual_seed(7)
    words, rnn, out = nn.Embedding(12, 8), nn.GRU(8, 20), nn.Linear(20, 2)
    x, y = torch.randint(12, (12, 8)), torch.arange(8) % 2
    return traced(rnn, lambda: ce(out(rnn(nn.functional.dropout(words(x), p))[1][-1]), y))


class Convolved(nn.Module):
    """A convolution over time in front."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Conv1d(6, 8, 3, padding=1)
        self.rnn, self.out = nn.GRU(8, 24, batch_first=True), nn.Linear(24, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(self.front(x.mT).mT)[0][:, -1])


def padding_behind_a_convolution() -> tt.Flow:
    torch.manual_seed(7)
    model, x = Convolved(), torch.zeros(16, 50, 6)
    for row in range(16):
        x[row, : 4 + row] = torch.randn(4 + row, 6)
    return traced(model, lambda: ce(model(x), torch.arange(16) % 2))


def a_layer_is_skipped() -> tt.Flow:
    torch.manual_seed(7)
    first, second, x = nn.GRU(4, 16), nn.GRU(16, 16), torch.randn(9, 6, 4)

    def losses() -> Tensor:
        h = first(x)[0]
        second(h)
        return h.pow(2).mean((1, 2))

    return traced(nn.ModuleList((first, second)), losses)


def head_of_zeros() -> tt.Flow:
    torch.manual_seed(7)
    model, x = Reader(nn.GRU(4, 16)), torch.randn(9, 6, 4)
    nn.init.zeros_(model.out.weight)
    return traced(model, lambda: (model(x) - 1).pow(2).mean((1, 2)))


def numbers_that_name_things() -> tt.Flow:
    """Identification numbers beside standardised features."""
    torch.manual_seed(7)
    x = torch.randn(15, 6, 20)
    x[..., 19] = torch.randint(1, 1_000_000, (15, 6)).float()
    return each_step(Reader(nn.GRU(20, 24)), x)


def prices_into_relu(scaled: bool = False) -> tt.Flow:
    torch.manual_seed(7)
    x = 30_000 + 100 * torch.randn(24, 8, 1).cumsum(0)
    model = Reader(nn.RNN(1, 32, num_layers=2, nonlinearity="relu"))
    return each_step(model, (x - x.mean()) / x.std() if scaled else x)


def relu_layers_of_gain() -> tt.Flow:
    torch.manual_seed(7)
    rnn, x = nn.RNN(3, 24, num_layers=2, nonlinearity="relu"), torch.rand(60, 4, 3)
    with torch.no_grad():
        rnn.weight_hh_l0.copy_(1.3 * torch.eye(24))
    return traced(rnn, lambda: rnn(x)[0][-1].mean())


def cues_at_four_times() -> tt.Flow:
    torch.manual_seed(7)
    rnn, out, x = nn.LSTM(3, 16), nn.Linear(16, 2), torch.zeros(12, 8, 3)
    for row in range(8):
        x[row % 4, row] = torch.randn(3)
    return traced(rnn, lambda: ce(out(rnn(x)[1][0][-1]), torch.arange(8) % 2))


def margin_missed_by_one_row() -> tt.Flow:
    torch.manual_seed(7)
    rnn, out, x = nn.GRU(5, 24), nn.Linear(24, 1), torch.randn(9, 16, 5)
    met = 2.0 * (torch.arange(16) != 6)[:, None]
    return traced(rnn, lambda: (1 - out(rnn(x)[0][-1]) - met).clamp(min=0).mean())


def variational() -> tt.Flow:
    torch.manual_seed(7)
    model = nn.ModuleDict(
        {
            "encoder": nn.GRU(4, 16),
            "decoder": nn.GRU(4, 16),
            "mean": nn.Linear(16, 6),
            "spread": nn.Linear(16, 6),
            "begin": nn.Linear(6, 16),
            "out": nn.Linear(16, 4),
        }
    )
    x, noise = torch.randn(9, 6, 4), torch.randn(6, 6)

    def loss() -> Tensor:
        h = model["encoder"](x)[1][-1]
        mean, spread = model["mean"](h), model["spread"](h)
        z = mean + noise * (spread / 2).exp()
        before = torch.cat((torch.zeros(1, 6, 4), x[:-1]))
        said = model["out"](model["decoder"](before, model["begin"](z)[None])[0])
        return (said - x).pow(2).mean() + 1e-3 * (mean.pow(2) + spread.exp() - spread - 1).mean()

    return traced(model, loss)


def judged_by_a_frozen_critic() -> tt.Flow:
    torch.manual_seed(7)
    says, out, judges, verdict = nn.LSTM(5, 16), nn.Linear(16, 3), nn.GRU(3, 16), nn.Linear(16, 1)
    judges.requires_grad_(False)
    verdict.requires_grad_(False)
    model = nn.ModuleDict({"says": says, "out": out, "judges": judges, "verdict": verdict})
    z = torch.randn(8, 6, 5)

    def loss() -> Tensor:
        return nn.functional.softplus(-verdict(judges(out(says(z)[0]))[1][-1])).mean()

    return traced(model, loss)


def with_weight_norm() -> tt.Flow:
    torch.manual_seed(7)
    model, x = Reader(nn.GRU(4, 16)), torch.randn(9, 6, 4)
    nn.utils.parametrizations.weight_norm(model.rnn, "weight_hh_l0")
    return traced(model, lambda: model(x).pow(2).mean((1, 2)))


def whole(state):
    return state


CASES = [
    Case("one step a call, h alone detached", ("state-cut",), lambda: one_step_a_call(h_alone),
         lambda: one_step_a_call(whole)),
    Case("the same in two layers", ("state-cut",), lambda: one_step_a_call(h_alone, 2),
         lambda: one_step_a_call(whole, 2)),
    Case("the memory alone detached", ("state-cut",), memory_alone_detached),
    Case("flattened and read at the end", ("rows-without-gradient",),
         flattened_and_read_at_the_end),
    Case("halves swapped", ("reverse-reads-one-step", "reads-one-step"), lambda: halves(True),
         lambda: halves(False)),
    Case("dropout over padding", ("reads-padding",), lambda: dropout_over_padding(0.3)),
    Case("dropout of a half over padding", ("reads-padding",),
         lambda: dropout_over_padding(0.5, 32)),
    Case("dropout over padding of zeros", ("reads-padding",),
         lambda: dropout_over_padding(0.3, padding=0)),
    Case("padding behind a convolution", ("reads-padding",), padding_behind_a_convolution),
    Case("a layer is skipped", ("no-gradient",), a_layer_is_skipped),
    Case("a head of zeros", ("no-gradient",), head_of_zeros),
    Case("numbers that name things", ("input-scale",), numbers_that_name_things),
    Case("prices into ReLU units", ("input-scale",), prices_into_relu,
         lambda: prices_into_relu(True)),
    Case("ReLU layers of gain", ("explodes",), relu_layers_of_gain),
    Case("sound: dropout alone", (), lambda: dropout_alone(0.5)),
    Case("sound: cues at four times", (), cues_at_four_times),
    Case("sound: a margin missed by one row", (), margin_missed_by_one_row),
    Case("sound: variational", (), variational),
    Case("sound: a frozen critic", (), judged_by_a_frozen_critic),
    Case("sound: weight norm", (), with_weight_norm),
]  # fmt: skip
