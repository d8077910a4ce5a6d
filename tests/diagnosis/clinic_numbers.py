"""The clinic over numbers that are no numbers, as they come about in models that people have.

``PYTHONPATH=tests python ../shared/clinic/run.py tests/diagnosis/clinic_numbers.py`` prints it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

import throughtime as tt
from diagnosis.clinic_cases import Case, ce, traced
from diagnosis.clinic_loops import Cells

mse = nn.functional.mse_loss


class Reader(nn.Module):
    """A network in front, a recurrent layer, a head over all its outputs; time first."""

    def __init__(self, rnn: nn.Module, out: int = 1, front: nn.Module | None = None) -> None:
        super().__init__()
        width = getattr(rnn, "proj_size", 0) or rnn.hidden_size
        self.front = nn.Identity() if front is None else front
        self.rnn = rnn
        self.out = nn.Linear(width * (2 if rnn.bidirectional else 1), out)

    def forward(self, x: Tensor, state=None) -> Tensor:
        return self.out(self.rnn(self.front(x), state)[0])


class Normalised(nn.Module):
    """Features minus their mean over their deviation in the batch, without an epsilon."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean((0, 1))) / x.std((0, 1))


def constant_feature() -> tt.Flow:
    torch.manual_seed(1)
    x = torch.randn(20, 6, 5)
    x[..., 3] = 4.0  # the same in every row and step: its deviation is 0
    model = tt.convert(Reader(nn.GRU(5, 12), front=Normalised()))
    return traced(model, lambda: mse(model(x), torch.zeros(20, 6, 1)))


def log_of_counts() -> tt.Flow:
    torch.manual_seed(1)
    x = torch.randint(0, 9, (25, 4, 3)).float().log()
    model = Reader(nn.RNN(3, 16))
    return traced(model, lambda: model(x)[-1].pow(2).mean())


def gaps_in_a_table() -> tt.Flow:
    torch.manual_seed(1)
    x = torch.randn(18, 7, 6)
    x[torch.rand(18, 7, 6) < 0.05] = torch.nan
    model = tt.convert(Reader(nn.LSTM(6, 10, num_layers=2, bidirectional=True)))
    return traced(model, lambda: model(x).pow(2).mean((1, 2)))


def halved_too_large() -> tt.Flow:
    torch.manual_seed(1)
    x = torch.randn(15, 5, 4)
    x[9, 2, 0] = 80_000
    x = x.half().float()
    model = Reader(nn.GRU(4, 10, num_layers=2))
    return traced(model, lambda: model(x).pow(2).mean())


def packed_with_infinity() -> tt.Flow:
    torch.manual_seed(1)
    x, lengths = torch.randn(5, 12, 4), torch.tensor([12, 10, 7, 7, 3])
    x[2, 5, 1] = torch.inf
    rnn, out = nn.LSTM(4, 10, batch_first=True), nn.Linear(10, 2)

    def loss() -> Tensor:
        packed = pack_padded_sequence(x, lengths, batch_first=True)
        return ce(out(rnn(packed)[1][0][-1]), torch.tensor([0, 1, 1, 0, 1]))

    return traced(rnn, loss)


def embedding_row_nan() -> tt.Flow:
    torch.manual_seed(1)
    model = Reader(nn.LSTM(8, 16), out=30, front=nn.Embedding(30, 8))
    with torch.no_grad():
        model.front.weight[7] = torch.nan
    x = torch.randint(30, (14, 6))
    x[4, 2] = 7
    return traced(model, lambda: ce(model(x).flatten(0, 1), x.flatten()))


def missing_targets() -> tt.Flow:
    torch.manual_seed(1)
    model, x, y = Reader(tt.LSTM(3, 12, num_layers=2)), torch.randn(20, 6, 3), torch.randn(20, 6, 1)
    y[8, 3] = torch.nan
    return traced(model, lambda: (model(x) - y).pow(2).mean((1, 2)))


def every_target_ignored() -> tt.Flow:
    torch.manual_seed(1)
    model, x = Reader(nn.GRU(4, 12), out=3), torch.randn(10, 4, 4)
    y = torch.full((10, 4), -100)
    return traced(model, lambda: ce(model(x).flatten(0, 1), y.flatten()))


def one_row_all_masked() -> tt.Flow:
    torch.manual_seed(1)
    rnn, score, out = nn.GRU(4, 12, batch_first=True), nn.Linear(12, 1), nn.Linear(12, 2)
    x, lengths, y = torch.randn(5, 9, 4), torch.tensor([9, 4, 0, 6, 2]), torch.randint(2, (5,))
    beyond = torch.arange(9) >= lengths[:, None]

    def loss() -> Tensor:
        h = rnn(x)[0]
        weights = score(h)[..., 0].masked_fill(beyond, -torch.inf).softmax(1)
        return ce(out((weights[..., None] * h).sum(1)), y)

    return traced(rnn, loss)


def own_cross_entropy() -> tt.Flow:
    torch.manual_seed(1)
    model, x, y = Reader(nn.LSTM(4, 12)), torch.randn(12, 6, 4), torch.randint(2, (12, 6)).float()
    with torch.no_grad():
        model.out.bias.fill_(-120.0)

    def losses() -> Tensor:
        p = model(x)[..., 0].sigmoid()
        return -(y * p.log() + (1 - y) * (1 - p).log()).mean(1)

    return traced(model, losses)


def short_for_ctc() -> tt.Flow:
    torch.manual_seed(1)
    rnn, out = tt.GRU(6, 16, batch_first=True), nn.Linear(16, 5)
    x, y = torch.randn(4, 8, 6), torch.randint(1, 5, (4, 10))

    def loss() -> Tensor:
        scores = out(rnn(x)[0]).log_softmax(-1).transpose(0, 1)
        return nn.functional.ctc_loss(
            scores, y, torch.full((4,), 8), torch.tensor([3, 10, 2, 4]), reduction="sum"
        )

    return traced(rnn, loss)


def variance_overflows() -> tt.Flow:
    torch.manual_seed(1)
    model, x, y = Reader(nn.GRU(4, 12), out=2), torch.randn(16, 6, 4), torch.randn(16, 6)
    with torch.no_grad():
        model.out.bias[1] = 200.0

    def losses() -> Tensor:
        mean, log_variance = model(x).unbind(-1)
        variance = log_variance.exp()
        return (variance.log() + (y - mean).pow(2) / variance).mean(1)

    return traced(model, losses)


def linear_cell_runs_away() -> tt.Flow:
    torch.manual_seed(1)
    rnn, x = tt.Recurrent(tt.cells.Elman(3, 16, nonlinearity="identity")), torch.randn(100, 4, 3)
    with torch.no_grad():
        rnn.cell.weight_hh.copy_(3.0 * torch.eye(16))
    return traced(rnn, lambda: rnn(x)[0].pow(2).mean((1, 2)))


def relu_cell_runs_away() -> tt.Flow:
    torch.manual_seed(1)
    cell = nn.RNNCell(3, 16, nonlinearity="relu")
    with torch.no_grad():
        cell.weight_hh.fill_(0.5)

    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = cell

        def forward(self, x: Tensor) -> Tensor:
            h = x.new_zeros(x.shape[1], 16)
            for x_t in x:
                h = self.cell(x_t, h)
            return h

    model, x = Loop(), torch.rand(90, 4, 3)
    return traced(model, lambda: model(x).mean())


def gain_in_two_layers() -> tt.Flow:
    torch.manual_seed(1)
    rnn = nn.RNN(3, 24, num_layers=2, batch_first=True)
    with torch.no_grad():
        for name, p in rnn.named_parameters():
            p.copy_(
                6 * torch.linalg.qr(torch.randn(24, 24))[0]
            ) if "weight_hh" in name else p.zero_()
    x = torch.randn(4, 150, 3)
    return traced(rnn, lambda: rnn(x)[0][:, -1].sum())


def after_a_wild_update() -> tt.Flow:
    torch.manual_seed(1)
    model, x = Reader(nn.LSTM(3, 12, num_layers=2)), torch.randn(10, 4, 3)
    sgd = torch.optim.SGD(model.parameters(), lr=1e30)
    for _ in range(4):
        sgd.zero_grad()
        (model(x) - 1).pow(2).mean().backward()
        sgd.step()
    return traced(model, lambda: (model(x) - 1).pow(2).mean((1, 2)))


def one_weight_infinite() -> tt.Flow:
    torch.manual_seed(1)
    model, x = Reader(tt.GRU(3, 8, num_layers=2, bidirectional=True)), torch.randn(11, 4, 3)
    with torch.no_grad():
        model.rnn.weight_hh_l1_reverse[2, 5] = -torch.inf
    return traced(model, lambda: model(x).pow(2).mean())


def carried_from_a_bad_batch() -> tt.Flow:
    torch.manual_seed(1)

    class Stateful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.out, self.h = nn.GRU(3, 12), nn.Linear(12, 1), None

        def forward(self, x: Tensor) -> Tensor:
            out, h = self.rnn(x, self.h)
            self.h = h.detach()
            return self.out(out)

    model, bad, x = Stateful(), torch.randn(10, 4, 3), torch.randn(10, 4, 3)
    bad[3, 1] = torch.nan
    model(bad)
    return traced(model, lambda: model(x).pow(2).mean((1, 2)))


def infinite_memory() -> tt.Flow:
    torch.manual_seed(1)
    model, x, state = Cells(nn.LSTMCell, 4, 24), torch.randn(12, 8, 4), torch.zeros(8, 24)
    cell = state.clone()
    cell[2, 20] = torch.inf
    return traced(model, lambda: model(x, (state, cell)).pow(2).mean((1, 2)))


def root_of_an_exact_fit() -> tt.Flow:
    torch.manual_seed(1)
    model, x = Reader(tt.RNN(3, 12)), torch.randn(15, 4, 3)
    nn.init.zeros_(model.out.weight)
    nn.init.zeros_(model.out.bias)
    return traced(model, lambda: (model(x) - torch.zeros(15, 4, 1)).pow(2).mean((1, 2)).sqrt())


def chosen_by_where() -> tt.Flow:
    torch.manual_seed(1)
    rnn, x = nn.RNN(3, 12, nonlinearity="relu"), torch.randn(12, 4, 3)

    def losses() -> Tensor:
        h = rnn(x)[0]
        return torch.where(h > 0, h.log(), torch.zeros(())).pow(2).mean((1, 2))

    return traced(rnn, losses)


def paired_with_itself() -> tt.Flow:
    torch.manual_seed(1)
    rnn, x = nn.LSTM(3, 8, batch_first=True), torch.randn(6, 12, 3)
    other = torch.tensor([1, 2, 2, 4, 5, 0])  # the third row is drawn as its own pair

    def loss() -> Tensor:
        h = rnn(x)[1][0][-1]
        return (h - h[other]).pow(2).sum(-1).sqrt().mean()

    return traced(rnn, loss)


class Rooted(nn.Module):
    """A step whose state is divided by its own deviation, which begins at 0."""

    def __init__(self) -> None:
        super().__init__()
        self.x, self.h = nn.Linear(3, 10, bias=False), nn.Linear(10, 10, bias=False)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        a = self.x(x) + self.h(h)
        return torch.tanh(a / (a.var(-1, keepdim=True).sqrt() + 1e-3))


def deviation_of_silence() -> tt.Flow:
    torch.manual_seed(1)

    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.step = Rooted()

        def forward(self, x: Tensor) -> Tensor:
            h, found = x.new_zeros(x.shape[1], 10), []
            for x_t in x:
                h = self.step(x_t, h)
                found.append(h)
            return torch.stack(found)

    model, x = Loop(), torch.randn(10, 4, 3)
    x[:3, 1] = 0  # one row begins with silence
    with tt.trace(model, steps=[Rooted]) as trace:
        losses = model(x).pow(2).mean((1, 2))
    return trace.flow(losses)


def root_in_a_function() -> tt.Flow:
    torch.manual_seed(1)
    w, u = nn.Parameter(0.3 * torch.randn(8, 8)), nn.Parameter(torch.randn(3, 8))

    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.u = w, u

        def forward(self, x: Tensor) -> Tensor:
            h, found = x.new_zeros(x.shape[1], 8), []
            for x_t in x:
                a = (x_t @ self.u + h @ self.w).abs()
                h = tt.mark("core", torch.tanh(a.sqrt()))
                found.append(h)
            return torch.stack(found)

    model, x = Loop(), torch.randn(10, 4, 3)
    x[:2, 3] = 0
    return traced(model, lambda: model(x).pow(2).mean((1, 2)))


CASES = [
    Case("a constant feature, standardised", ("input-nonfinite",), constant_feature),
    Case("logarithm of counts", ("input-nonfinite",), log_of_counts),
    Case("gaps in a table", ("input-nonfinite",), gaps_in_a_table),
    Case("too large for half", ("input-nonfinite",), halved_too_large),
    Case("inf in a packed row", ("input-nonfinite",), packed_with_infinity),
    Case("NaN in a row of the embedding", ("weight-nonfinite",), embedding_row_nan),
    Case("a target is missing", ("loss-nonfinite",), missing_targets),
    Case("every target is ignored", ("loss-nonfinite",), every_target_ignored),
    Case("attention over a row of length 0", ("loss-nonfinite",), one_row_all_masked),
    Case("cross entropy by hand", ("loss-nonfinite",), own_cross_entropy),
    Case("labels longer than the input, GRU", ("loss-nonfinite",), short_for_ctc),
    Case("a variance overflows", ("loss-nonfinite",), variance_overflows),
    Case("a linear cell runs away", ("state-overflow",), linear_cell_runs_away),
    Case("a ReLU cell runs away", ("state-overflow",), relu_cell_runs_away),
    Case("gain in two layers", ("gradient-overflow",), gain_in_two_layers),
    Case("after a wild update", ("weight-nonfinite",), after_a_wild_update),
    Case("one weight is infinite", ("weight-nonfinite",), one_weight_infinite),
    Case("carried from a bad batch", ("initial-state-nonfinite",), carried_from_a_bad_batch),
    Case("an infinite memory", ("initial-state-nonfinite",), infinite_memory),
    Case("root of an exact fit", ("loss-gradient-nonfinite",), root_of_an_exact_fit),
    Case("chosen by where", ("loss-gradient-nonfinite",), chosen_by_where),
    Case("a row paired with itself", ("loss-gradient-nonfinite",), paired_with_itself),
    Case("deviation of silence in a step", ("derivative-nonfinite",), deviation_of_silence),
    Case("root of silence in a loop", ("derivative-nonfinite",), root_in_a_function),
]  # fmt: skip
