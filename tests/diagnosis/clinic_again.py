"""The clinic once more: the same mistakes in forms that lie farther off, and sound ones.

``PYTHONPATH=tests python ../shared/clinic/run.py tests/diagnosis/clinic_again.py`` prints it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence

import throughtime as tt
from diagnosis.clinic_alike import train
from diagnosis.clinic_cases import Case, ce, traced
from diagnosis.clinic_loops import Cells
from diagnosis.clinic_numbers import Reader, mse
from diagnosis.clinic_wired import each_step, texts

# Data.


def weights_of_the_input(gain: float = 80) -> tt.Flow:
    torch.manual_seed(5)
    model = Reader(nn.RNN(4, 32))
    with torch.no_grad():
        model.rnn.weight_ih_l0.mul_(gain)
    return each_step(model, torch.randn(20, 8, 4))


def far_below_zero() -> tt.Flow:
    torch.manual_seed(5)
    model = Reader(nn.RNN(2, 24, nonlinearity="relu"))
    nn.init.uniform_(model.rnn.weight_ih_l0, 0, 0.5)
    return each_step(model, torch.randn(20, 8, 2) - 1000)


def norm_in_front() -> tt.Flow:
    torch.manual_seed(5)
    x = 5e4 + 1e3 * torch.randn(20, 8, 6)
    return each_step(Reader(nn.LSTM(6, 24), front=nn.LayerNorm(6)), x)


def prices_to_the_second_layer(scale: float = 3000) -> tt.Flow:
    torch.manual_seed(5)
    first, second, out = nn.GRU(3, 16), nn.LSTM(17, 16), nn.Linear(16, 1)
    model = nn.ModuleDict({"first": first, "second": second, "out": out})
    x, price, y = torch.randn(15, 6, 3), scale * (1 + torch.rand(15, 6, 1)), torch.randn(15, 6, 1)

    def losses() -> Tensor:
        return (out(second(torch.cat((first(x)[0], price), -1))[0]) - y).pow(2).mean((1, 2))

    return traced(model, losses)


# Padding.


def translator_of_padded_texts(packed: bool = False) -> tt.Flow:
    x, lengths = texts(8, 50)
    x, lengths = (x[:-1, :12], lengths[:-1]) if packed else (x, lengths)
    torch.manual_seed(5)
    words, below, above = nn.Embedding(40, 8, padding_idx=0), nn.LSTM(8, 20), nn.LSTM(8, 20)
    out, y = nn.Linear(20, 40), torch.randint(1, 40, (6, len(x)))
    model = nn.ModuleDict({"words": words, "encoder": below, "decoder": above, "out": out})

    def losses() -> Tensor:
        e = words(x.T)
        if packed:
            e = pack_padded_sequence(e, lengths, enforce_sorted=False)
        scores = out(above(words(y[:-1]), below(e)[1])[0])
        return ce(scores.transpose(1, 2), y[1:], reduction="none").mean(1)

    return traced(model, losses)


def one_hot_padded_with_zeros() -> tt.Flow:
    torch.manual_seed(5)
    rows = [nn.functional.one_hot(torch.randint(12, (n,)), 12).float() for n in (5, 8, 6, 40, 7)]
    rnn, out, y = nn.LSTM(12, 24, batch_first=True), nn.Linear(24, 3), torch.arange(5) % 3
    x = pad_sequence(rows, batch_first=True)
    return traced(rnn, lambda: ce(out(rnn(x)[0][:, -1]), y))


def padded_rows_of_two_layers_both_ways() -> tt.Flow:
    torch.manual_seed(5)
    rows = [torch.randn(n, 5) for n in (5, 8, 6, 40, 7, 9)]
    rnn, out = nn.GRU(5, 16, num_layers=2, bidirectional=True), nn.Linear(32, 3)
    x, y = pad_sequence(rows), torch.arange(6) % 3

    def loss() -> Tensor:
        h_n = rnn(x)[1]
        return ce(out(torch.cat((h_n[-2], h_n[-1]), -1)), y)

    return traced(rnn, loss)


def padded_with_the_end_sign() -> tt.Flow:
    torch.manual_seed(5)
    x = torch.randint(3, 50, (10, 60))
    for row, n in enumerate(torch.randint(4, 12, (10,))):
        x[row, int(n) :] = 2
    words, rnn = nn.Embedding(50, 12), nn.GRU(12, 24, batch_first=True)
    out, y = nn.Linear(24, 2), torch.arange(10) % 2
    model = nn.ModuleDict({"words": words, "rnn": rnn, "out": out})
    return traced(model, lambda: ce(out(rnn(words(x))[1][0]), y))


# What is read.


def own_reverse(right: bool = False) -> tt.Flow:
    torch.manual_seed(5)
    ahead, back, out = nn.LSTM(5, 16), nn.LSTM(5, 16), nn.Linear(32, 2)
    model = nn.ModuleDict({"ahead": ahead, "back": back, "out": out})
    x, y = torch.randn(10, 8, 5), torch.arange(8) % 2

    def loss() -> Tensor:
        a, b = ahead(x)[0], back(x.flip(0))[0].flip(0)
        return ce(out(torch.cat((a[-1], b[0 if right else -1]), -1)), y)

    return traced(model, loss)


def one_row_in_the_loss() -> tt.Flow:
    torch.manual_seed(5)
    model, x, y = Reader(nn.LSTM(4, 16)), torch.randn(12, 16, 4), torch.randn(16, 1)
    return traced(model, lambda: mse(model(x)[-1][0], y[0]))


def rounded_output() -> tt.Flow:
    torch.manual_seed(5)
    model, x = Reader(nn.GRU(4, 16)), torch.randn(12, 6, 4)
    return traced(model, lambda: ((10 * model(x)).round() - 1).pow(2).mean((1, 2)))


def clamped_output(bias: float = 9.0) -> tt.Flow:
    torch.manual_seed(5)
    model, x = Reader(nn.GRU(4, 16)), torch.randn(12, 6, 4)
    nn.init.constant_(model.out.bias, bias)
    return traced(model, lambda: (model(x).clamp(0, 1) - 0.5).pow(2).mean((1, 2)))


def weight_of_zero(weight: float = 0.0) -> tt.Flow:
    torch.manual_seed(5)
    main, side = nn.GRU(4, 16), nn.GRU(4, 16)
    model, x = nn.ModuleDict({"main": main, "side": side}), torch.randn(12, 6, 4)
    return traced(model, lambda: (main(x)[0].pow(2) + weight * side(x)[0].pow(2)).mean((1, 2)))


def encoder_state_not_passed(passed: bool = False) -> tt.Flow:
    torch.manual_seed(5)
    below, above = nn.GRU(6, 16), nn.GRU(6, 16)
    model, x = nn.ModuleDict({"encoder": below, "decoder": above}), torch.randn(8, 6, 6)

    def losses() -> Tensor:
        _, h = below(x)
        return (above(x, h if passed else None)[0] - 0.3).pow(2).mean((1, 2))

    return traced(model, losses)


def most_likely_words() -> tt.Flow:
    """What the first network says goes on as its most likely words."""
    torch.manual_seed(5)
    says, out, hears = nn.GRU(5, 16), nn.Linear(16, 9), nn.GRU(5, 16)
    words = nn.Embedding(9, 5)
    model = nn.ModuleDict({"says": says, "out": out, "words": words, "hears": hears})
    x = torch.randn(8, 6, 5)
    return traced(
        model,
        lambda: hears(words(out(says(x)[0]).argmax(-1)))[0].pow(2).mean((1, 2)),
    )


# Where a state ends.


def marked(pass_on, at=(5, 10), T: int = 15) -> tt.Flow:
    torch.manual_seed(5)

    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.x, self.h = nn.Linear(3, 16), nn.Linear(16, 16, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            h, found = x.new_zeros(x.shape[1], 16), []
            for t, x_t in enumerate(x):
                if t in at:
                    h = pass_on(h)
                h = tt.mark("core", torch.tanh(self.x(x_t) + self.h(h)))
                found.append(h)
            return torch.stack(found)

    model, x = Loop(), torch.randn(T, 6, 3)
    return traced(model, lambda: model(x).pow(2).mean((1, 2)))


class Own(nn.Module):
    """A step of one's own."""

    def __init__(self) -> None:
        super().__init__()
        self.x, self.h = nn.Linear(3, 16), nn.Linear(16, 16, bias=False)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        return 0.5 * h + 0.5 * torch.tanh(self.x(x) + self.h(h))


def own_step(pass_on, at=(5, 10), T: int = 15) -> tt.Flow:
    torch.manual_seed(5)
    step, x = Own(), torch.randn(T, 6, 3)
    model = nn.ModuleDict({"step": step})

    def losses() -> Tensor:
        h, found = torch.zeros(6, 16), []
        for t, x_t in enumerate(x):
            h = step(x_t, pass_on(h) if t in at else h)
            found.append(h.pow(2).mean())
        return torch.stack(found)

    with tt.trace(model, steps=[Own]) as trace:
        found = losses()
    return trace.flow(found)


def detached_with_resets(detach: bool = True) -> tt.Flow:
    """Episodes: the state is masked at their ends, and detached by the way."""
    torch.manual_seed(5)
    rnn, out, x = nn.GRUCell(4, 16), nn.Linear(16, 1), torch.randn(16, 6, 4)
    done = torch.rand(16, 6, 1) < 0.1

    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.out = rnn, out

        def forward(self, x: Tensor) -> Tensor:
            h, found = torch.zeros(6, 16), []
            for t, x_t in enumerate(x):
                h = h * ~done[t]
                h = rnn(x_t, h.detach() if detach and t % 4 == 0 else h)
                found.append(out(h))
            return torch.stack(found)

    model = Loop()
    return traced(model, lambda: model(x).pow(2).mean((1, 2)))


def two_layers_of_cells(detach: bool = True) -> tt.Flow:
    torch.manual_seed(5)
    model = nn.ModuleList([nn.LSTMCell(4, 16), nn.LSTMCell(16, 16)])
    x = torch.randn(12, 6, 4)

    def losses() -> Tensor:
        states, found = [None, None], []
        for t, below in enumerate(x):
            for n, cell in enumerate(model):
                if detach and n == 1 and t and t % 3 == 0:
                    states[n] = tuple(s.detach() for s in states[n])
                states[n] = cell(below, states[n])
                below = states[n][0]
            found.append(below.pow(2).mean())
        return torch.stack(found)

    return traced(model, losses)


def memory_alone_on_old_graph() -> tt.Flow:
    torch.manual_seed(5)
    rnn, x = nn.LSTM(4, 16), torch.randn(10, 6, 4)
    h, c = rnn(x)[1]
    h.sum().backward(retain_graph=True)
    return traced(rnn, lambda: rnn(x, (h.detach(), c))[0].pow(2).mean((1, 2)))


def converted_on_old_graph() -> tt.Flow:
    torch.manual_seed(5)
    model, x = (
        tt.convert(nn.ModuleDict({"rnn": nn.GRU(4, 16, num_layers=2)})),
        torch.randn(10, 6, 4),
    )
    h = model["rnn"](x)[1]
    return traced(model, lambda: model["rnn"](x, h)[0].pow(2).mean())


# Numbers.


def zero_class_weights() -> tt.Flow:
    torch.manual_seed(5)
    model, x, y = Reader(nn.LSTM(4, 12), out=3), torch.randn(8, 6, 4), torch.full((8, 6), 2)
    weight = torch.tensor([1.0, 1.0, 0.0])
    return traced(model, lambda: ce(model(x).transpose(1, 2), y, weight=weight))


def divides_by_its_norm() -> tt.Flow:
    torch.manual_seed(5)
    step, x = nn.RNNCell(3, 10, nonlinearity="relu"), torch.rand(12, 5, 3)
    with torch.no_grad():
        step.bias_ih.fill_(-3)
        step.bias_hh.zero_()

    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.step = step

        def forward(self, x: Tensor) -> Tensor:
            h = x.new_zeros(5, 10)
            for x_t in x:
                h = step(x_t, h)
                h = h / h.norm(dim=-1, keepdim=True)
            return h

    model = Loop()
    return traced(model, lambda: model(x).pow(2).mean())


def loss_times_1e38(scale: float = 1e38) -> tt.Flow:
    torch.manual_seed(5)
    model, x = Reader(nn.GRU(3, 16, bias=False)), 1e-4 * torch.randn(10, 4, 3)
    with torch.no_grad():
        model.out.weight.mul_(100)
        model.out.bias.zero_()
    return traced(model, lambda: scale * model(x)[-1].mean())


def half_gains() -> tt.Flow:
    torch.manual_seed(5)
    model = Cells(nn.RNNCell, 4, 16, out=1).half()
    with torch.no_grad():
        model.cell.weight_hh.copy_(6 * torch.linalg.qr(torch.randn(16, 16))[0])
        model.cell.bias_ih.zero_()
        model.cell.bias_hh.zero_()
    x = torch.zeros(40, 4, 4).half()
    return traced(model, lambda: model(x)[-1].sum())


def angle_of_one_number() -> tt.Flow:
    torch.manual_seed(5)
    model, x = Reader(nn.GRU(3, 16)), torch.randn(10, 4, 3)
    nn.init.constant_(model.out.bias, 5.0)
    return traced(
        model,
        lambda: nn.functional.normalize(model(x), dim=-1).acos().pow(2).mean((1, 2)),
    )


def function_with_a_root() -> tt.Flow:
    torch.manual_seed(5)

    def step(x: Tensor, h: Tensor, u: Tensor, w: Tensor) -> Tensor:
        return (x @ u + h @ w).abs().sqrt()

    weights = {"u": torch.randn(3, 8), "w": 0.3 * torch.randn(8, 8)}
    rnn, x = tt.Recurrent(tt.cells.Function(step, 3, 8, weights=weights)), torch.randn(10, 4, 3)
    x[:2, 1] = 0
    return traced(rnn, lambda: rnn(x)[0].pow(2).mean((1, 2)))


# Sound.


def long_trained_letters(cell: type = nn.LSTM, updates: int = 120) -> tt.Flow:
    torch.manual_seed(5)
    text = torch.tensor([ord(c) - 96 if c != " " else 0 for c in "a quick brown fox jumps " * 8])
    model = Reader(tt.convert(cell(12, 24)), out=27, front=nn.Embedding(27, 12))

    def losses() -> Tensor:
        at = torch.randint(len(text) - 15, (8,)) + torch.arange(15)[:, None]
        return ce(model(text[at[:-1]]).transpose(1, 2), text[at[1:]], reduction="none").mean(1)

    train(model, losses, updates)
    return traced(model, losses)


def trained_relu() -> tt.Flow:
    torch.manual_seed(5)
    model = Reader(tt.RNN(3, 24, nonlinearity="relu"))

    def loss() -> Tensor:
        x = torch.rand(8, 16, 3)
        return (model(x) - x.mean(-1, keepdim=True).cumsum(0) / 4).pow(2).mean((1, 2))

    train(model, loss, 150)
    return traced(model, loss)


def trained_adding() -> tt.Flow:
    torch.manual_seed(5)
    model = Reader(tt.GRU(2, 24))

    def loss() -> Tensor:
        x, marks = torch.rand(12, 32), torch.zeros(12, 32)
        marks[torch.randint(6, (32,)), torch.arange(32)] = 1
        marks[torch.randint(6, 12, (32,)), torch.arange(32)] = 1
        return mse(model(torch.stack((x, marks), -1))[-1, :, 0], (x * marks).sum(0))

    train(model, loss, 150)
    return traced(model, loss)


def tied_translator() -> tt.Flow:
    """A bidirectional encoder, packed, and a decoder that hears what was right, with dropout."""
    torch.manual_seed(5)
    words, below, above = nn.Embedding(30, 12), nn.GRU(12, 16, bidirectional=True), nn.GRU(12, 32)
    model = nn.ModuleDict({"words": words, "encoder": below, "decoder": above})
    x, lengths, y = (
        torch.randint(30, (9, 5)),
        torch.tensor([9, 7, 6, 4, 2]),
        torch.randint(30, (7, 5)),
    )
    back = nn.Linear(32, 12)
    model["back"] = back

    def losses() -> Tensor:
        e = pack_padded_sequence(nn.functional.dropout(words(x), 0.3), lengths)
        h_n = below(e)[1]
        h = above(words(y[:-1]), torch.cat((h_n[0], h_n[1]), -1)[None])[0]
        scores = back(h) @ words.weight.T
        return ce(scores.transpose(1, 2), y[1:], reduction="none").mean(1)

    return traced(model, losses)


def rewards_with_few_hits() -> tt.Flow:
    """Policy gradient: of 16 rows three have an advantage at all."""
    torch.manual_seed(5)
    model, x = Reader(nn.LSTM(4, 24), out=3), torch.randn(8, 16, 4)
    advantage = torch.zeros(16)
    advantage[[2, 7, 11]] = torch.tensor([1.0, -0.5, 0.3])
    done = torch.randint(3, (8, 16))
    return traced(
        model,
        lambda: (advantage * ce(model(x).transpose(1, 2), done, reduction="none")).mean(1),
    )


def target_network() -> tt.Flow:
    torch.manual_seed(5)
    online, target = nn.LSTM(4, 16), nn.LSTM(4, 16).requires_grad_(False)
    model, x = nn.ModuleDict({"online": online, "target": target}), torch.randn(8, 6, 4)

    def losses() -> Tensor:
        with torch.no_grad():
            wanted = target(x)[0]
        return (online(x)[0] - wanted).pow(2).mean((1, 2))

    return traced(model, losses)


def evaluated_in_between() -> tt.Flow:
    torch.manual_seed(5)
    model, x = Reader(nn.GRU(4, 16)), torch.randn(8, 6, 4)

    def losses() -> Tensor:
        with torch.no_grad():
            model(x + 1)
        return model(x).pow(2).mean((1, 2))

    return traced(model, losses)


def same(state):
    return state


def off(state):
    return state.detach()


CASES = [
    Case("weights of the input times 80", ("saturated",), weights_of_the_input,
         lambda: weights_of_the_input(1)),
    Case("ReLU far below zero", ("input-scale", "dead-units"), far_below_zero),
    Case("prices to the second layer", ("input-scale",), prices_to_the_second_layer,
         lambda: prices_to_the_second_layer(0.5)),
    Case("a translator of padded texts", ("reads-padding",), translator_of_padded_texts,
         lambda: translator_of_padded_texts(True)),
    Case("one-hot padded with zeros", ("reads-padding",), one_hot_padded_with_zeros),
    Case("two layers both ways, padded", ("reads-padding",), padded_rows_of_two_layers_both_ways),
    Case("padded with the end sign", ("reads-padding",), padded_with_the_end_sign),
    Case("an own reverse direction", ("reverse-reads-one-step", "reads-one-step"), own_reverse,
         lambda: own_reverse(True)),
    Case("one row in the loss", ("rows-without-gradient",), one_row_in_the_loss),
    Case("output rounded", ("no-gradient",), rounded_output),
    Case("output clamped", ("no-gradient",), clamped_output, lambda: clamped_output(0.5)),
    Case("a loss of weight zero", ("no-gradient",), weight_of_zero, lambda: weight_of_zero(0.1)),
    Case("the encoder's state is not passed", ("no-gradient",), encoder_state_not_passed,
         lambda: encoder_state_not_passed(True)),
    Case("the most likely words go on", ("no-gradient",), most_likely_words),
    Case("marks: detached twice", ("state-cut",), lambda: marked(off), lambda: marked(same)),
    Case("own step: detached twice", ("state-cut",), lambda: own_step(off), lambda: own_step(same)),
    Case("own step: numpy in between", ("state-cut",),
         lambda: own_step(lambda h: torch.from_numpy(h.detach().numpy().copy()))),
    Case("detached with resets", ("state-cut",), detached_with_resets,
         lambda: detached_with_resets(False)),
    Case("the second of two cells detached", ("state-cut",), two_layers_of_cells,
         lambda: two_layers_of_cells(False)),
    Case("the memory alone on an old graph", ("state-on-old-graph",), memory_alone_on_old_graph),
    Case("converted, on an old graph", ("state-on-old-graph",), converted_on_old_graph),
    Case("class weights of zero", ("loss-nonfinite",), zero_class_weights),
    Case("a state divided by its norm", ("state-overflow", "initial-state-nonfinite"),
         divides_by_its_norm),
    Case("loss times 1e38", ("loss-gradient-nonfinite",), loss_times_1e38,
         lambda: loss_times_1e38(1)),
    Case("half: gain of 6", ("gradient-overflow",), half_gains),
    Case("the angle of one number", ("loss-gradient-nonfinite",), angle_of_one_number),
    Case("a root in a function", ("derivative-nonfinite",), function_with_a_root),
    Case("sound: layer norm in front", (), norm_in_front),
    Case("sound: letters, 120 updates", (), long_trained_letters),
    Case("sound: letters, GRU, 120 updates", (), lambda: long_trained_letters(nn.GRU)),
    Case("sound: letters, tanh, 120 updates", (), lambda: long_trained_letters(nn.RNN)),
    Case("sound: ReLU trained to count", (), trained_relu),
    Case("sound: trained to add", (), trained_adding),
    Case("sound: tied translator, packed", (), tied_translator),
    Case("sound: rewards with few hits", (), rewards_with_few_hits),
    Case("sound: a target network", (), target_network),
    Case("sound: evaluated in between", (), evaluated_in_between),
]  # fmt: skip
