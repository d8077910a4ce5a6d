"""The clinic over reach: gradients that vanish, explode or underflow, in forms people have.

``PYTHONPATH=tests python ../shared/clinic/run.py tests/diagnosis/clinic_reaching.py`` prints it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import throughtime as tt
from diagnosis.clinic_cases import Case, ce, traced
from diagnosis.clinic_loops import Cells
from diagnosis.clinic_numbers import Reader, mse


def asked_late(rnn: nn.Module, T: int, weights: Tensor | None = None) -> tt.Flow:
    """A question about the first steps, asked at the last; or losses with weights."""
    torch.manual_seed(3)
    out, x, y = (
        nn.Linear(rnn.hidden_size, 4),
        torch.randn(T, 8, rnn.input_size),
        torch.arange(8) % 4,
    )

    def loss() -> Tensor:
        h = rnn(x)[0]
        if weights is None:
            return ce(out(h[-1]), y)
        each = ce(out(h).transpose(1, 2), y.expand(T, 8), reduction="none").mean(1)
        return (weights * each).sum()

    return traced(rnn, loss)


def late_answers(chrono: bool = False) -> tt.Flow:
    torch.manual_seed(3)
    from throughtime.remedies import chrono_

    rnn, out = nn.LSTM(10, 48), nn.Linear(48, 10)
    if chrono:
        chrono_(rnn, longest=70)
    x, y = torch.zeros(70, 8, 10), torch.randint(10, (5, 8))
    x[:5] = nn.functional.one_hot(y, 10)
    x[5:, :, 9] = 1
    return traced(rnn, lambda: ce(out(rnn(x)[0][-5:]).transpose(1, 2), y))


def late_cells() -> tt.Flow:
    torch.manual_seed(3)
    model, x, y = Cells(nn.LSTMCell), torch.randn(80, 8, 4), torch.randint(2, (8,))
    return traced(model, lambda: ce(model(x)[-1], y))


class Leaky(nn.Module):
    """A leaky step: half of the state is kept."""

    def __init__(self, keep: float) -> None:
        super().__init__()
        self.keep, self.x, self.h = keep, nn.Linear(3, 24), nn.Linear(24, 24)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        return self.keep * h + (1 - self.keep) * torch.tanh(self.x(x) + self.h(h))


def leaky(keep: float, T: int) -> tt.Flow:
    torch.manual_seed(3)

    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.step, self.out = Leaky(keep), nn.Linear(24, 1)

        def forward(self, x: Tensor) -> Tensor:
            h = x.new_zeros(x.shape[1], 24)
            for x_t in x:
                h = self.step(x_t, h)
            return self.out(h)

    model, x = Loop(), torch.randn(T, 6, 3)
    with tt.trace(model, steps=[Leaky]) as trace:
        loss = model(x).pow(2).mean()
    return trace.flow(loss)


def encoder_far_below(T: int = 60) -> tt.Flow:
    """The decoder begins with the encoder's last state, of a long text."""
    torch.manual_seed(3)
    below, above, out = nn.GRU(8, 32), nn.GRU(8, 32), nn.Linear(32, 8)
    model = nn.ModuleDict({"encoder": below, "decoder": above, "out": out})
    x, said, y = torch.randn(T, 6, 8), torch.randn(5, 6, 8), torch.randint(8, (5, 6))
    return traced(model, lambda: ce(out(above(said, below(x)[1])[0]).transpose(1, 2), y))


def small_weights(dtype: torch.dtype = torch.float32) -> tt.Flow:
    torch.manual_seed(3)
    model = Reader(nn.RNN(4, 24)).to(dtype)
    with torch.no_grad():
        model.rnn.weight_hh_l0.copy_(0.02 * torch.linalg.qr(torch.randn(24, 24))[0])
    x = torch.randn(60, 6, 4, dtype=dtype)
    return traced(model, lambda: model(x)[-1].pow(2).mean())


def gain(cell: str, of: float, T: int = 60, losses: str = "each") -> tt.Flow:
    torch.manual_seed(3)
    turn = torch.linalg.qr(torch.randn(24, 24))[0]
    rnn = {
        "tanh": lambda: nn.RNN(4, 24),
        "relu": lambda: tt.RNN(4, 24, nonlinearity="relu"),
        "linear": lambda: tt.Recurrent(tt.cells.Elman(4, 24, nonlinearity="identity")),
    }[cell]()
    weight = rnn.cell.weight_hh if cell == "linear" else rnn.weight_hh_l0
    with torch.no_grad():
        weight.copy_(of * turn)
    x = (0.01 if cell == "tanh" else 1) * torch.randn(T, 6, 4)

    def loss() -> Tensor:
        h = rnn(x)[0]
        return h[-1].mean() if losses == "last" else h.mean((1, 2))

    return traced(rnn, loss)


def gain_in_a_cell(of: float) -> tt.Flow:
    torch.manual_seed(3)
    model, x = Cells(nn.RNNCell, out=1), 0.01 * torch.randn(50, 6, 4)
    with torch.no_grad():
        model.cell.weight_hh.copy_(of * torch.linalg.qr(torch.randn(24, 24))[0])
        model.cell.bias_ih.zero_()
        model.cell.bias_hh.zero_()
    return traced(model, lambda: model(x)[-1].mean())


def forgetful(bias: float) -> tt.Flow:
    """A forget gate that is shut: nothing is carried in the memory."""
    torch.manual_seed(3)
    rnn = nn.LSTM(4, 24)
    with torch.no_grad():
        rnn.bias_ih_l0[24:48] = bias
    return asked_late(rnn, 40)


def last_weight_only() -> tt.Flow:
    torch.manual_seed(3)
    weights = torch.zeros(90)
    weights[-1] = 1
    return asked_late(nn.GRU(6, 32), 90, weights)


def own_recurrent(T: int) -> tt.Flow:
    torch.manual_seed(3)
    rnn = tt.Recurrent(tt.cells.LSTM(6, 32))
    out, x, y = nn.Linear(32, 1), torch.randn(T, 6, 6), torch.randn(6, 1)
    return traced(rnn, lambda: mse(out(rnn(x)[0][-1]), y))


def middle_of_both(T: int) -> tt.Flow:
    torch.manual_seed(3)
    rnn, out = nn.RNN(6, 32, bidirectional=True), nn.Linear(64, 3)
    x, y = torch.randn(T, 8, 6), torch.randint(3, (8,))
    return traced(rnn, lambda: ce(out(rnn(x)[0][T // 2]), y))


CASES = [
    Case("copy: answers after 65 blanks", ("vanishes",), late_answers, lambda: late_answers(True)),
    Case("three GRU layers asked at step 100", ("vanishes",),
         lambda: asked_late(nn.GRU(6, 32, num_layers=3), 100)),
    Case("a converted tanh network, 70 steps", ("vanishes",),
         lambda: asked_late(tt.RNN(6, 48), 70)),
    Case("LSTMCell, 80 steps", ("vanishes",), late_cells),
    Case("a leaky step, 80 steps", ("vanishes",), lambda: leaky(0.5, 80),
         lambda: leaky(0.98, 80)),
    Case("decoder after a long text", ("vanishes",), encoder_far_below,
         lambda: encoder_far_below(6)),
    Case("all weight on the last loss", ("vanishes",), last_weight_only),
    Case("a recurrent LSTM cell, 90 steps", ("vanishes",), lambda: own_recurrent(90),
         lambda: own_recurrent(9)),
    Case("the middle of 120 steps, both ways", ("vanishes",), lambda: middle_of_both(120)),
    Case("weights of a fiftieth", ("underflow", "vanishes"), small_weights),
    Case("forget gate shut", ("saturated", "vanishes", "underflow"), lambda: forgetful(-12)),
    Case("tanh of gain 3 about 0", ("explodes",), lambda: gain("tanh", 3, 40, "last"),
         lambda: gain("tanh", 1, 40, "last")),
    Case("ReLU cell of gain 1.6", ("explodes",), lambda: gain("relu", 1.9, 50)),
    Case("linear cell of gain 1.15, 80 steps", ("explodes",),
         lambda: gain("linear", 1.15, 80, "last"), lambda: gain("linear", 1, 80, "last")),
    Case("RNNCell of gain 2", ("explodes",), lambda: gain_in_a_cell(2), lambda: gain_in_a_cell(1)),
]  # fmt: skip
