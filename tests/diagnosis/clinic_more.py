"""A second set for the clinic, harder than `clinic_cases`: see ``docs/studies/clinic.md``.

``PYTHONPATH=tests python ../shared/clinic/run.py tests/diagnosis/clinic_more.py`` prints it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import throughtime as tt
from diagnosis.clinic_cases import Case, ce, texts, traced

C = tt.cells


def simple(rnn, T=30, B=8, I=4, read=lambda h: h[-1], x=None, seed=0) -> tt.Flow:
    """A layer, a linear read-out and a squared loss."""
    torch.manual_seed(seed)
    x = torch.randn(T, B, I) if x is None else x

    def loss() -> Tensor:
        h = read(rnn(x)[0])
        torch.manual_seed(3)
        w, y = torch.randn(h.shape[-1]) / h.shape[-1] ** 0.5, torch.randn(h.shape[:-1])
        return (h @ w - y).pow(2).mean()

    return traced(rnn, loss)


def scaled(cell, factor, **options):
    torch.manual_seed(0)
    rnn = cell(4, 32, **options)
    with torch.no_grad():
        for name, p in rnn.named_parameters():
            if "weight_hh" in name:
                p *= factor
    return rnn


def recurrence_saturates_tanh() -> tt.Flow:
    return simple(scaled(nn.RNN, 60), T=25)


def recurrence_saturates_lstm() -> tt.Flow:
    return simple(scaled(nn.LSTM, 100), T=25)


def all_weights_far_too_large() -> tt.Flow:
    torch.manual_seed(0)
    rnn = nn.GRU(4, 32)
    with torch.no_grad():
        for p in rnn.parameters():
            p *= 60
    return simple(rnn, T=25)


def sigmoid_units_pinned() -> tt.Flow:
    torch.manual_seed(0)
    rnn = tt.RNN(4, 32, nonlinearity="sigmoid")
    with torch.no_grad():
        rnn.bias_ih_l0.fill_(12)
    return simple(rnn, T=20)


def update_gates_never_open() -> tt.Flow:
    torch.manual_seed(0)
    rnn = nn.GRU(4, 32)
    with torch.no_grad():
        rnn.bias_ih_l0[32:64] = 25
    return simple(rnn, T=20, read=lambda h: h)


def chaotic_tanh() -> tt.Flow:
    torch.manual_seed(0)
    rnn = nn.RNN(4, 64)
    with torch.no_grad():
        rnn.weight_hh_l0.copy_(2.2 * torch.randn(64, 64) / 8)
        rnn.weight_ih_l0 *= 0.1
    return simple(rnn, T=80)


def gain_with_a_loss_a_step() -> tt.Flow:
    torch.manual_seed(0)
    rnn, x = tt.RNN(3, 24, nonlinearity="identity"), torch.randn(50, 5, 3)
    with torch.no_grad():
        rnn.weight_hh_l0.copy_(1.25 * torch.linalg.qr(torch.randn(24, 24))[0])
    return traced(rnn, lambda: rnn(x)[0].mean((1, 2)))


def prices_into_a_peephole_cell() -> tt.Flow:
    x = 30_000 + 100 * torch.randn(40, 6, 1).cumsum(0)
    torch.manual_seed(0)
    return simple(tt.Recurrent(C.PeepholeLSTM(1, 24)), x=x)


def volumes_after_a_linear_layer() -> tt.Flow:
    torch.manual_seed(0)
    model = nn.ModuleDict({"in": nn.Linear(3, 16), "rnn": nn.GRU(16, 24), "out": nn.Linear(24, 1)})
    x = 1e5 * torch.rand(30, 6, 3)
    return traced(model, lambda: model["out"](model["rnn"](model["in"](x))[0]).pow(2).mean((1, 2)))


def prices_both_ways() -> tt.Flow:
    torch.manual_seed(0)
    x = 500 + 20 * torch.randn(25, 8, 2)
    return simple(nn.LSTM(2, 24, bidirectional=True), x=x, read=lambda h: h.mean(0))


def prices_into_ones_own_cell() -> tt.Flow:
    torch.manual_seed(0)
    w = {"W": torch.randn(24, 24) / 9, "U": torch.randn(24, 1) / 5}
    cell = C.Function(lambda x, s, W, U: torch.tanh(x @ U.T + s @ W.T), 1, 24, weights=w)
    return simple(tt.Recurrent(cell), x=30_000 + 100 * torch.randn(40, 6, 1).cumsum(0))


def off_by_one_after_the_text() -> tt.Flow:
    torch.manual_seed(0)
    model = nn.ModuleDict(
        {"e": nn.Embedding(40, 16), "r": nn.LSTM(16, 24, batch_first=True), "o": nn.Linear(24, 3)}
    )
    tokens, lengths, y = texts(T=50, low=5, high=45)
    rows = torch.arange(len(tokens))
    return traced(
        model, lambda: ce(model["o"](model["r"](model["e"](tokens))[0][rows, lengths]), y)
    )


def loss_over_padded_targets() -> tt.Flow:
    torch.manual_seed(0)
    model = nn.ModuleDict(
        {"e": nn.Embedding(40, 16), "r": nn.GRU(16, 24, batch_first=True), "o": nn.Linear(24, 40)}
    )
    tokens, _, _ = texts(T=50, low=5, high=45)

    def loss() -> Tensor:
        h, _ = model["r"](model["e"](tokens[:, :-1]))
        return ce(model["o"](h).flatten(0, 1), tokens[:, 1:].flatten())

    return traced(model, loss)


def padded_through_a_linear_layer() -> tt.Flow:
    torch.manual_seed(0)
    model = nn.ModuleDict(
        {"in": nn.Linear(7, 16), "r": nn.LSTM(16, 24, batch_first=True), "o": nn.Linear(24, 3)}
    )
    x, y = torch.randn(13, 37, 7), torch.randint(3, (13,))
    lengths = torch.randint(4, 30, (13,))
    x[torch.arange(37) >= lengths[:, None]] = 0
    return traced(model, lambda: ce(model["o"](model["r"](model["in"](x))[1][0][-1]), y))


def packed_output_read_at_the_end() -> tt.Flow:
    torch.manual_seed(0)
    rnn, out = nn.GRU(6, 20, batch_first=True), nn.Linear(20, 3)
    lengths = torch.tensor([30, 22, 19, 12, 12, 9, 8, 7, 5, 5, 4, 4])
    x, y = torch.randn(12, 30, 6), torch.randint(3, (12,))

    def loss() -> Tensor:
        h, _ = pad_packed_sequence(rnn(pack_padded_sequence(x, lengths, True))[0], True)
        return ce(out(h[:, -1]), y)

    return traced(rnn, loss)


def a_stateful_module() -> tt.Flow:
    torch.manual_seed(0)

    class Stateful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.out, self.state = nn.GRU(4, 16), nn.Linear(16, 1), None

        def forward(self, x: Tensor) -> Tensor:
            h, self.state = self.rnn(x, self.state)
            return self.out(h)

    model = Stateful()
    model(torch.randn(6, 3, 4)).mean()
    return traced(model, lambda: model(torch.randn(6, 3, 4)).pow(2).mean((1, 2)))


def state_carried_and_detached() -> tt.Flow:
    torch.manual_seed(0)
    rnn = nn.LSTM(4, 16)
    _, state = rnn(torch.randn(6, 4, 4))
    state = tuple(s.detach() for s in state)
    x = torch.randn(6, 4, 4)
    return traced(rnn, lambda: rnn(x, state)[0].pow(2).mean((1, 2)))


def state_from_features() -> tt.Flow:
    torch.manual_seed(0)
    model = nn.ModuleDict({"first": nn.Linear(3, 16), "rnn": nn.GRU(4, 16)})
    context, x = torch.randn(4, 3), torch.randn(6, 4, 4)

    def losses() -> Tensor:
        return model["rnn"](x, model["first"](context)[None])[0].pow(2).mean((1, 2))

    return traced(model, losses)


def numpy_in_between() -> tt.Flow:
    torch.manual_seed(0)
    model = nn.ModuleDict(
        {"e": nn.Embedding(20, 8), "a": nn.LSTM(8, 16), "b": nn.LSTM(16, 16), "o": nn.Linear(16, 2)}
    )
    tokens, y = torch.randint(20, (7, 5)), torch.randint(2, (5,))

    def loss() -> Tensor:
        h = torch.tensor(model["a"](model["e"](tokens))[0].detach().numpy())
        return ce(model["o"](model["b"](h)[0][-1]), y)

    return traced(model, loss)


def division_by_an_empty_mask() -> tt.Flow:
    torch.manual_seed(0)
    rnn, out = nn.GRU(4, 16), nn.Linear(16, 5)
    x, y = torch.randn(9, 4, 4), torch.full((9, 4), -100)
    return traced(rnn, lambda: ce(out(rnn(x)[0]).flatten(0, 1), y.flatten(), ignore_index=-100))


def log_of_a_probability_of_zero() -> tt.Flow:
    torch.manual_seed(0)
    rnn, out = nn.LSTM(4, 16), nn.Linear(16, 5)
    x = torch.randn(9, 4, 4)

    def losses() -> Tensor:
        p = (5000 * out(rnn(x)[0])).softmax(-1)
        return -p[..., 0].log().mean(1)

    return traced(rnn, losses)


def deviation_of_one_value() -> tt.Flow:
    torch.manual_seed(0)
    rnn, x = nn.RNN(3, 12), torch.randn(10, 4, 3)

    def loss() -> Tensor:
        h = rnn(x)[0]
        same = h[-1, :, :1].expand(-1, 5)
        return h.pow(2).mean() + same.var(-1).sqrt().mean()

    return traced(rnn, loss)


def inf_in_a_padded_batch() -> tt.Flow:
    torch.manual_seed(0)
    rnn = tt.LSTM(3, 12)
    x = torch.randn(10, 4, 3)
    x[6:, 2] = math.nan
    lengths = torch.tensor([10, 8, 6, 5])
    return traced(rnn, lambda: rnn(x, lengths=lengths)[0].pow(2).mean((1, 2)))


def nan_only_for_the_second_layer() -> tt.Flow:
    torch.manual_seed(0)
    model = nn.ModuleDict({"a": nn.GRU(3, 8), "b": nn.GRU(8, 8)})
    x = torch.randn(10, 4, 3)

    def losses() -> Tensor:
        return model["b"](model["a"](x)[0].log())[0].pow(2).mean((1, 2))

    return traced(model, losses)


def exponential_cell_overflows() -> tt.Flow:
    torch.manual_seed(0)
    cell = C.Function(lambda x, s, W: (x + s @ W.T).exp() - 1, 6, 6, weights={"W": torch.eye(6)})
    x = torch.rand(30, 3, 6)
    layer = tt.Recurrent(cell)
    return traced(layer, lambda: layer(x)[0].mean((1, 2)))


def weight_decay_to_nan_in_one_layer() -> tt.Flow:
    torch.manual_seed(0)
    rnn, x = nn.LSTM(3, 8, num_layers=2), torch.randn(9, 4, 3)
    with torch.no_grad():
        rnn.bias_hh_l1[5] = -math.inf
    return traced(rnn, lambda: rnn(x)[0].pow(2).mean((1, 2)))


def bfloat16_over_long() -> tt.Flow:
    torch.manual_seed(0)
    rnn = tt.RNN(3, 16, nonlinearity="sigmoid", dtype=torch.bfloat16)
    return simple_half(rnn, 120)


def simple_half(rnn, T) -> tt.Flow:
    x = torch.randn(T, 4, 3, dtype=torch.bfloat16)
    return traced(rnn, lambda: rnn(x)[0][-1].float().mean())


def held_stimuli() -> tt.Flow:
    torch.manual_seed(0)
    steps = torch.rand(40, 16, 1) < 0.15
    value, held = torch.randn(40, 16, 3), torch.zeros(40, 16, 3)
    for t in range(40):
        held[t] = torch.where(steps[t], value[t], held[t - 1] if t else value[t])
    return simple(nn.GRU(3, 24), x=held, read=lambda h: h)


def two_symbols() -> tt.Flow:
    torch.manual_seed(0)
    x = nn.functional.one_hot(torch.randint(2, (12, 16)), 2).float()
    return simple(nn.LSTM(2, 16), x=x)


def digits_row_by_row() -> tt.Flow:
    torch.manual_seed(0)
    x = torch.zeros(28, 16, 28)
    for row in range(16):
        top, bottom = int(torch.randint(2, 6, ())), int(torch.randint(20, 26, ()))
        x[top:bottom, row, 6:22] = torch.rand(bottom - top, 16)
    return simple(nn.LSTM(28, 32), x=x, read=lambda h: h.mean(0))


def forget_bias_of_one() -> tt.Flow:
    torch.manual_seed(0)
    rnn = nn.LSTM(4, 32)
    with torch.no_grad():
        rnn.bias_ih_l0[32:64] = 1
    return simple(rnn, T=16)


def layernorm_lstm() -> tt.Flow:
    torch.manual_seed(0)
    return simple(tt.Recurrent(C.LayerNormLSTM(4, 32)), T=12)


def leaky_integrator() -> tt.Flow:
    torch.manual_seed(0)
    return simple(tt.Recurrent(C.Leaky(4, 32, alpha=0.1)), T=30)


def open_update_gates() -> tt.Flow:
    torch.manual_seed(0)
    rnn = nn.GRU(4, 32)
    with torch.no_grad():
        rnn.bias_ih_l0[32:64] = 4
    return simple(rnn, T=60)


def dropout_between_layers() -> tt.Flow:
    torch.manual_seed(0)
    return simple(nn.LSTM(4, 24, num_layers=3, dropout=0.3), T=20, read=lambda h: h)


def attention_over_states() -> tt.Flow:
    torch.manual_seed(0)
    rnn, score, out = nn.GRU(4, 24, bidirectional=True), nn.Linear(48, 1), nn.Linear(48, 3)
    x, y = torch.randn(30, 8, 4), torch.randint(3, (8,))

    def loss() -> Tensor:
        h = rnn(x)[0]
        return ce(out((score(h).softmax(0) * h).sum(0)), y)

    return traced(rnn, loss)


def labels_on_every_third_step() -> tt.Flow:
    return simple(nn.GRU(4, 24), T=40, read=lambda h: h[2::3])


def trained_tagger() -> tt.Flow:
    torch.manual_seed(0)
    model = nn.ModuleDict({"r": nn.LSTM(5, 24), "o": nn.Linear(24, 5)})
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(120):
        tokens = torch.randint(5, (20, 16))
        x = nn.functional.one_hot(tokens, 5).float()
        loss = ce(model["o"](model["r"](x)[0])[1:].flatten(0, 1), tokens[:-1].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def losses() -> Tensor:
        scores = model["o"](model["r"](x)[0])[1:]
        each = ce(scores.flatten(0, 1), tokens[:-1].flatten(), reduction="none")
        return each.view(19, 16).mean(1)

    return traced(model, losses)


def tied_weights() -> tt.Flow:
    torch.manual_seed(0)
    model = nn.ModuleDict({"e": nn.Embedding(30, 24), "r": nn.LSTM(24, 24), "o": nn.Linear(24, 30)})
    model["o"].weight = model["e"].weight
    tokens = torch.randint(30, (21, 6))

    def losses() -> Tensor:
        h = model["o"](model["r"](model["e"](tokens[:-1]))[0])
        return ce(h.flatten(0, 1), tokens[1:].flatten(), reduction="none").view(20, 6).mean(1)

    return traced(model, losses)


def parametrized_weight() -> tt.Flow:
    torch.manual_seed(0)
    rnn = nn.LSTM(4, 16)
    nn.utils.parametrizations.weight_norm(rnn, "weight_hh_l0")
    return simple(rnn, T=8)


def under_autocast(weight: float, dtype=torch.float16, p: float = 0.0) -> tt.Flow:
    torch.manual_seed(0)
    rnn, out, x = (
        tt.LSTM(5, 24),
        nn.Sequential(nn.Dropout(p), nn.Linear(24, 3)),
        torch.randn(10, 8, 5),
    )
    with torch.autocast("cpu", dtype=dtype):
        return traced(rnn, lambda: weight * (out(rnn(x)[0]).float() - 1).pow(2).mean())


CASES = [
    Case("recurrence saturates a tanh network", ("saturated",), recurrence_saturates_tanh),
    Case("recurrence saturates an LSTM", ("saturated", "explodes"), recurrence_saturates_lstm),
    Case("all weights far too large", ("saturated",), all_weights_far_too_large),
    Case("sigmoid units pinned", ("saturated",), sigmoid_units_pinned),
    Case("update gates never open", ("saturated",), update_gates_never_open),
    Case("chaotic tanh network", ("explodes",), chaotic_tanh),
    Case("gain with a loss a step", ("explodes",), gain_with_a_loss_a_step),
    Case("prices into a peephole cell", ("input-scale",), prices_into_a_peephole_cell),
    Case("volumes after a linear layer", ("input-scale",), volumes_after_a_linear_layer),
    Case("prices both ways", ("input-scale",), prices_both_ways),
    Case("prices into a cell of one's own", ("input-scale",), prices_into_ones_own_cell),
    Case("one step after the text", ("reads-padding",), off_by_one_after_the_text),
    Case("loss over padded targets", ("reads-padding",), loss_over_padded_targets),
    Case("padded, through a linear layer", ("reads-padding",), padded_through_a_linear_layer),
    Case("packed, read at [:, -1]", ("rows-without-gradient",), packed_output_read_at_the_end),
    Case("a stateful module", ("state-on-old-graph",), a_stateful_module),
    Case("numpy in between", ("no-gradient",), numpy_in_between),
    Case("division by an empty mask", ("loss-nonfinite",), division_by_an_empty_mask),
    Case("log of a probability of 0", ("loss-nonfinite",), log_of_a_probability_of_zero),
    Case("deviation of equal values", ("loss-gradient-nonfinite",), deviation_of_one_value),
    Case("NaN for the second layer alone", ("input-nonfinite",), nan_only_for_the_second_layer),
    Case("an exponential cell overflows", ("state-overflow",), exponential_cell_overflows),
    Case("-inf in a bias", ("weight-nonfinite",), weight_decay_to_nan_in_one_layer),
    Case("bfloat16 over 120 steps", ("underflow", "vanishes"), bfloat16_over_long),
    Case("a small loss in float16", ("half-underflow",), lambda: under_autocast(1e-5)),
    Case("a tiny loss in float16", ("half-underflow",), lambda: under_autocast(1e-9)),
    Case("sound: float16", (), lambda: under_autocast(1.0)),
    Case("sound: float16 and dropout", (), lambda: under_autocast(1.0, p=0.6)),
    Case("sound: a tiny loss in bfloat16", (), lambda: under_autocast(1e-9, torch.bfloat16)),
    Case("sound: NaN in the padding alone", (), inf_in_a_padded_batch),
    Case("sound: state carried and detached", (), state_carried_and_detached),
    Case("sound: state from features", (), state_from_features),
    Case("sound: held stimuli", (), held_stimuli),
    Case("sound: two symbols", (), two_symbols),
    Case("sound: digits row by row", (), digits_row_by_row),
    Case("sound: forget bias of 1, 16 steps", (), forget_bias_of_one),
    Case("sound: layer norm LSTM", (), layernorm_lstm),
    Case("sound: leaky integrator", (), leaky_integrator),
    Case("sound: open update gates", (), open_update_gates),
    Case("sound: dropout between layers", (), dropout_between_layers),
    Case("sound: attention over states", (), attention_over_states),
    Case("sound: labels on every third step", (), labels_on_every_third_step),
    Case("sound: a trained tagger", (), trained_tagger),
    Case("sound: tied weights", (), tied_weights),
    Case("sound: a parametrized weight", (), parametrized_weight),
]  # fmt: skip
