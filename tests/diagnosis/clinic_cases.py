"""Further cases for the clinic: other cells, shapes and wordings of the mistakes, and sound models.

The form is that of ``../shared/clinic/cases.py``, so that its ``run.py`` takes this file too. The
cases were written before `tt.examine` had seen any; ``docs/studies/clinic.md`` says how many were
right at the first run.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import throughtime as tt

ce = nn.functional.cross_entropy


class Case(NamedTuple):
    """A model with a known mistake.

    Attributes:
        name: what is wrong, in a few words.
        expect: codes of which one must come first; empty: the model is sound.
        run: gives the flow.
        fix: gives the flow of the same model with the mistake mended; None where that is plain.
    """

    name: str
    expect: tuple[str, ...]
    run: Callable[[], tt.Flow]
    fix: Callable[[], tt.Flow] | None = None


def traced(model: nn.Module, losses: Callable[[], Tensor]) -> tt.Flow:
    """Run the losses inside a trace of the model."""
    torch.manual_seed(1)
    with tt.trace(model) as trace:
        found = losses()
    return trace.flow(found)


class Classifier(nn.Module):
    """Tokens in, one class out: the last output, the last one of each row, or their mean."""

    def __init__(self, cell=nn.GRU, read="last", V=40, H=32, **options) -> None:
        super().__init__()
        self.embed = nn.Embedding(V, 16, padding_idx=0)
        self.rnn = cell(16, H, batch_first=True, **options)
        self.read = read
        self.out = nn.Linear(H * (2 if options.get("bidirectional") else 1), 3)

    def forward(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        x = self.embed(tokens)
        if self.read == "packed":
            packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            h = self.rnn(packed)[1]
            h = h[0] if isinstance(h, tuple) else h
            return self.out(h[-1])
        h, _ = self.rnn(x)
        rows = torch.arange(len(tokens))
        if self.read == "last":
            return self.out(h[:, -1])
        if self.read == "mean":
            return self.out(h.mean(1))
        if self.read == "own last":
            return self.out(h[rows, lengths - 1])
        mask = (torch.arange(x.shape[1]) < lengths[:, None])[..., None]
        return self.out((h * mask).sum(1) / lengths[:, None])


def texts(B=24, T=60, low=4, high=20) -> tuple[Tensor, Tensor, Tensor]:
    tokens, lengths = torch.randint(1, 40, (B, T)), torch.randint(low, high, (B,))
    tokens[torch.arange(T) >= lengths[:, None]] = 0
    return tokens, lengths, torch.randint(3, (B,))


def classified(read: str, cell=nn.GRU, **options) -> tt.Flow:
    torch.manual_seed(0)
    model = Classifier(cell, read, **options)
    tokens, lengths, y = texts()
    return traced(model, lambda: ce(model(tokens, lengths), y))


# --- numbers that are not finite -------------------------------------------------------------


def log_of_zero_in_a_gru() -> tt.Flow:
    torch.manual_seed(0)
    rnn, out = nn.GRU(5, 24), nn.Linear(24, 1)
    x = torch.rand(25, 6, 5)
    x[9, 3, 2] = 0
    return traced(rnn, lambda: out(rnn(x.log())[0]).pow(2).mean())


def weights_are_nan_since_the_last_update() -> tt.Flow:
    torch.manual_seed(0)
    model = Classifier(nn.LSTM, "mean")
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(math.nan)
    tokens, _, y = texts()
    return traced(model, lambda: ce(model(tokens), y))


def one_head_weight_is_inf() -> tt.Flow:
    torch.manual_seed(0)
    model = Classifier(nn.RNN, "mean")
    with torch.no_grad():
        model.out.bias[1] = math.inf
    tokens, _, y = texts()
    return traced(model, lambda: ce(model(tokens), y))


def carried_state_is_nan() -> tt.Flow:
    torch.manual_seed(0)
    rnn, x = nn.LSTM(4, 16), torch.randn(12, 5, 4)
    state = (torch.zeros(1, 5, 16), torch.zeros(1, 5, 16))
    state[1][0, 2, 7] = math.nan
    return traced(rnn, lambda: rnn(x, state)[0].pow(2).mean((1, 2)))


def nan_among_the_targets() -> tt.Flow:
    torch.manual_seed(0)
    rnn, out = nn.GRU(3, 16, batch_first=True), nn.Linear(16, 1)
    x, y = torch.randn(8, 30, 3), torch.randn(8, 30, 1)
    y[5, 11] = math.nan
    return traced(rnn, lambda: (out(rnn(x)[0]) - y).pow(2).mean((0, 2)))


def root_of_zero_in_the_loss() -> tt.Flow:
    torch.manual_seed(0)
    rnn, x = nn.LSTM(3, 16), torch.randn(20, 4, 3)

    def loss() -> Tensor:
        h = rnn(x)[0]
        return (h[-1] - h[-1].detach()).pow(2).sum(-1).sqrt().mean() + h.mean()

    return traced(rnn, loss)


def norm_inside_a_cell() -> tt.Flow:
    torch.manual_seed(0)
    W = torch.randn(6, 6) / 6

    def step(x, s, W):
        return torch.tanh(x + s @ W.T) + (s * 0).pow(2).sum(-1, keepdim=True).sqrt()

    layer = tt.Recurrent(tt.cells.Function(step, 6, 6, weights={"W": W}))
    x = torch.randn(15, 3, 6)
    return traced(layer, lambda: layer(x)[0].pow(2).mean((1, 2)))


def linear_states_overflow() -> tt.Flow:
    torch.manual_seed(0)
    rnn, x = tt.RNN(3, 8, nonlinearity="identity"), torch.randn(300, 2, 3)
    with torch.no_grad():
        rnn.weight_hh_l0.copy_(1.6 * torch.linalg.qr(torch.randn(8, 8))[0])
    return traced(rnn, lambda: rnn(x)[0].mean((1, 2)))


def gradient_of_a_gru_overflows() -> tt.Flow:
    torch.manual_seed(0)
    rnn, x = nn.GRU(2, 16), torch.zeros(160, 3, 2)
    with torch.no_grad():
        for name, p in rnn.named_parameters():
            p.zero_()
            if name == "weight_hh_l0":
                p[32:] = 8 * torch.linalg.qr(torch.randn(16, 16))[0]
            if name == "bias_ih_l0":
                p[:16], p[16:32] = 8, -8
    return traced(rnn, lambda: rnn(x)[0][-1].sum())


# --- what is wired wrongly -------------------------------------------------------------------


def batch_of_the_first_read_as_time() -> tt.Flow:
    torch.manual_seed(0)
    rnn, out = nn.GRU(6, 20, batch_first=True), nn.Linear(20, 1)  # x is (time, batch, feature)
    x, y = torch.randn(40, 32, 6), torch.randn(32, 1)
    return traced(rnn, lambda: (out(rnn(x)[0][-1]) - y).pow(2).mean())


def axes_swapped_in_two_layers() -> tt.Flow:
    torch.manual_seed(0)
    rnn, out = nn.RNN(4, 16, num_layers=2), nn.Linear(16, 2)
    x, y = torch.randn(48, 28, 4), torch.randint(2, (48,))
    return traced(rnn, lambda: ce(out(rnn(x)[0][:, -1]), y))


def reverse_of_a_gru_at_the_end() -> tt.Flow:
    torch.manual_seed(0)
    rnn, out = nn.GRU(5, 12, bidirectional=True), nn.Linear(24, 3)
    x, y = torch.randn(18, 9, 5), torch.randint(3, (9,))
    return traced(rnn, lambda: ce(out(rnn(x)[0][-1]), y))


def reverse_read_by_h_n() -> tt.Flow:
    torch.manual_seed(0)
    rnn, out = nn.GRU(5, 12, bidirectional=True), nn.Linear(24, 3)
    x, y = torch.randn(8, 9, 5), torch.randint(3, (9,))
    return traced(rnn, lambda: ce(out(torch.cat(tuple(rnn(x)[1]), -1)), y))


def two_layers_both_ways_at_the_end() -> tt.Flow:
    return classified("last", nn.LSTM, num_layers=2, bidirectional=True)


def reads_the_first_step() -> tt.Flow:
    torch.manual_seed(0)
    rnn, out = nn.LSTM(4, 16), nn.Linear(16, 2)
    x, y = torch.randn(20, 8, 4), torch.randint(2, (8,))
    return traced(rnn, lambda: ce(out(rnn(x)[0][0]), y))


def encoder_detached() -> tt.Flow:
    torch.manual_seed(0)
    model = nn.ModuleDict({"enc": nn.GRU(4, 16), "dec": nn.GRU(4, 16), "out": nn.Linear(16, 4)})
    x, y = torch.randn(10, 6, 4), torch.randn(10, 6, 4)

    def losses() -> Tensor:
        state = model["enc"](x)[1].detach()
        h, _ = model["dec"](torch.cat((x[:1] * 0, y[:-1])), state)
        return (model["out"](h) - y).pow(2).mean((1, 2))

    return traced(model, losses)


def reverse_half_thrown_away() -> tt.Flow:
    torch.manual_seed(0)
    rnn, out = nn.LSTM(4, 16, bidirectional=True), nn.Linear(16, 2)
    x, y = torch.randn(10, 8, 4), torch.randint(2, (8,))
    return traced(rnn, lambda: ce(out(rnn(x)[0][-1, :, :16]), y))


def a_second_rnn_is_never_called() -> tt.Flow:
    torch.manual_seed(0)
    model = nn.ModuleDict({"a": nn.LSTM(4, 16), "b": nn.LSTM(16, 16), "out": nn.Linear(16, 2)})
    x, y = torch.randn(6, 8, 4), torch.randint(2, (8,))
    return traced(model, lambda: ce(model["out"](model["a"](x)[0][-1]), y))


class Dropped(nn.Module):
    """A weight drop as it is often copied: the raw weight is a parameter, the used one a copy."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(4, 16)
        raw = self.rnn.weight_hh_l0
        self.rnn.register_parameter("weight_hh_l0_raw", nn.Parameter(raw.data.clone()))
        self.out = nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.rnn.weight_hh_l0.copy_(nn.functional.dropout(self.rnn.weight_hh_l0_raw, 0.5))
        return self.out(self.rnn(x)[0])


def raw_weight_gets_nothing() -> tt.Flow:
    torch.manual_seed(0)
    model, x = Dropped(), torch.randn(8, 4, 4)
    return traced(model, lambda: model(x).pow(2).mean((1, 2)))


def state_of_the_last_batch() -> tt.Flow:
    torch.manual_seed(0)
    rnn = nn.LSTM(4, 16)
    first, x = torch.randn(6, 4, 4), torch.randn(6, 4, 4)
    h, state = rnn(first)
    h.mean().backward()
    return traced(rnn, lambda: rnn(x, state)[0].pow(2).mean((1, 2)))


def padded_tokens_read_at_the_end() -> tt.Flow:
    return classified("last")


def padded_tokens_two_layers() -> tt.Flow:
    return classified("last", nn.LSTM, num_layers=2)


def padded_tokens_packed() -> tt.Flow:
    return classified("packed")


def padded_with_the_last_frame() -> tt.Flow:
    torch.manual_seed(0)
    rnn, out = nn.RNN(6, 24, batch_first=True), nn.Linear(24, 1)
    x, lengths, y = torch.randn(20, 50, 6), torch.randint(5, 45, (20,)), torch.randn(20, 1)
    for row, n in enumerate(lengths):
        x[row, n:] = x[row, n - 1]
    return traced(rnn, lambda: (out(rnn(x)[1][-1]) - y).pow(2).mean())


def padded_with_minus_one() -> tt.Flow:
    torch.manual_seed(0)
    rnn, out = nn.GRU(2, 24), nn.Linear(24, 1)
    x, lengths, y = torch.rand(80, 16, 2), torch.randint(10, 80, (16,)), torch.randn(16, 1)
    for row, n in enumerate(lengths):
        x[n:, row] = -1
    return traced(rnn, lambda: (out(rnn(x)[0][-1]) - y).pow(2).mean())


# --- data and units --------------------------------------------------------------------------


def one_feature_in_years() -> tt.Flow:
    torch.manual_seed(0)
    rnn, out = nn.GRU(4, 24), nn.Linear(24, 1)
    x, y = torch.randn(20, 8, 4), torch.randn(8, 1)
    x[..., 2] = torch.arange(1990, 2010)[:, None]
    return traced(rnn, lambda: (out(rnn(x)[0][-1]) - y).pow(2).mean())


def pixels_as_bytes() -> tt.Flow:
    torch.manual_seed(0)
    rnn, out = nn.RNN(28, 64, batch_first=True), nn.Linear(64, 10)
    x, y = torch.randint(0, 256, (16, 28, 28)).float(), torch.randint(10, (16,))
    return traced(rnn, lambda: ce(out(rnn(x)[0][:, -1]), y))


def token_numbers_as_numbers() -> tt.Flow:
    torch.manual_seed(0)
    rnn, out = nn.LSTM(1, 32, batch_first=True), nn.Linear(32, 100)
    x = torch.randint(0, 5000, (16, 30, 1))
    y = torch.randint(100, (16, 30))
    return traced(rnn, lambda: ce(out(rnn(x.float())[0]).flatten(0, 1), y.flatten()))


def relu_units_dead_in_part() -> tt.Flow:
    torch.manual_seed(0)
    rnn, out, x = nn.RNN(6, 40, nonlinearity="relu"), nn.Linear(40, 1), torch.randn(25, 10, 6)
    with torch.no_grad():
        rnn.bias_hh_l0[:28] = -6
    return traced(rnn, lambda: (out(rnn(x)[0]) - 1).pow(2).mean((1, 2)))


def relu_in_a_cell_of_ones_own() -> tt.Flow:
    torch.manual_seed(0)
    w = {"W": torch.randn(8, 8) / 9, "b": torch.full((8,), -9.0)}
    cell = tt.cells.Function(lambda x, s, W, b: torch.relu(x + s @ W.T + b), 8, 8, weights=w)
    layer, x = tt.Recurrent(cell), torch.randn(20, 5, 8)
    return traced(layer, lambda: (layer(x)[0] - 1).pow(2).mean((1, 2)))


def biases_of_twenty() -> tt.Flow:
    torch.manual_seed(0)
    rnn, out = nn.RNN(4, 32), nn.Linear(32, 1)
    x, y = torch.randn(30, 8, 4), torch.randn(8, 1)
    with torch.no_grad():
        rnn.bias_hh_l0.copy_(20 * torch.randn(32).sign())
    return traced(rnn, lambda: (out(rnn(x)[0][-1]) - y).pow(2).mean())


def gates_of_an_lstm_held_shut() -> tt.Flow:
    torch.manual_seed(0)
    rnn, out = nn.LSTM(4, 32), nn.Linear(32, 1)
    x, y = torch.randn(30, 8, 4), torch.randn(8, 1)
    with torch.no_grad():
        rnn.bias_hh_l0[:64] = -15
    return traced(rnn, lambda: (out(rnn(x)[0][-1]) - y).pow(2).mean())


# --- reach -----------------------------------------------------------------------------------


def lstm_asked_much_later() -> tt.Flow:
    torch.manual_seed(0)
    rnn, out = nn.LSTM(6, 32, batch_first=True), nn.Linear(32, 3)
    x, y = torch.randn(12, 120, 6), torch.randint(3, (12,))
    return traced(rnn, lambda: ce(out(rnn(x)[1][0][-1]), y))


def gru_of_two_layers_asked_later() -> tt.Flow:
    torch.manual_seed(0)
    rnn, out = nn.GRU(6, 32, num_layers=2), nn.Linear(32, 3)
    x, y = torch.randn(90, 12, 6), torch.randint(3, (12,))
    return traced(rnn, lambda: ce(out(rnn(x)[0][-1]), y))


def tanh_with_too_much_gain() -> tt.Flow:
    torch.manual_seed(0)
    rnn, x = nn.RNN(3, 40), 1e-2 * torch.randn(40, 4, 3)
    with torch.no_grad():
        rnn.weight_hh_l0.copy_(2 * torch.linalg.qr(torch.randn(40, 40))[0])
        rnn.bias_hh_l0.zero_()
        rnn.bias_ih_l0.zero_()
        rnn.weight_ih_l0 *= 1e-8
    return traced(rnn, lambda: rnn(x)[0][-1].pow(2).sum() + rnn.weight_hh_l0.mean())


def relu_with_too_much_gain() -> tt.Flow:
    torch.manual_seed(0)
    rnn, x = nn.RNN(3, 24, nonlinearity="relu"), torch.rand(50, 4, 3)
    with torch.no_grad():
        rnn.weight_hh_l0.copy_(1.25 * torch.eye(24))
    return traced(rnn, lambda: rnn(x)[0][-1].mean())


def half_precision_underflows() -> tt.Flow:
    torch.manual_seed(0)
    rnn, x = tt.LSTM(4, 16, dtype=torch.float32), torch.randn(220, 4, 4)
    return traced(rnn, lambda: rnn(x)[0][-1].mean())


# --- sound -----------------------------------------------------------------------------------


def default(cell, T=8, **options) -> tt.Flow:
    torch.manual_seed(0)
    rnn, out = cell(5, 24, **options), nn.Linear(24, 2)
    x, y = torch.randn(T, 8, 5), torch.randint(2, (8,))
    return traced(rnn, lambda: ce(out(rnn(x)[0][-1]), y))


def language_model(cell=nn.LSTM) -> tt.Flow:
    torch.manual_seed(0)
    model = nn.ModuleDict({"e": nn.Embedding(50, 24), "r": cell(24, 48), "o": nn.Linear(48, 50)})
    tokens = torch.randint(50, (81, 6))

    def losses() -> Tensor:
        h, _ = model["r"](model["e"](tokens[:-1]))
        each = ce(model["o"](h).flatten(0, 1), tokens[1:].flatten(), reduction="none")
        return each.view(80, 6).mean(1)

    return traced(model, losses)


def scalar_language_model() -> tt.Flow:
    torch.manual_seed(0)
    rnn, out = nn.GRU(30, 40, num_layers=2), nn.Linear(40, 30)
    tokens = torch.randint(30, (61, 5))
    x = nn.functional.one_hot(tokens[:-1], 30).float()
    return traced(rnn, lambda: ce(out(rnn(x)[0]).flatten(0, 1), tokens[1:].flatten()))


def chrono_gru() -> tt.Flow:
    from throughtime.remedies import chrono_

    torch.manual_seed(0)
    rnn, out = chrono_(nn.GRU(6, 64), longest=80), nn.Linear(64, 3)
    x, y = torch.randn(80, 8, 6), torch.randint(3, (8,))
    return traced(rnn, lambda: ce(out(rnn(x)[0][-1]), y))


def chrono_for_a_thousand() -> tt.Flow:
    from throughtime.remedies import chrono_

    torch.manual_seed(0)
    rnn, out = chrono_(nn.LSTM(2, 32), longest=600), nn.Linear(32, 3)
    x, y = torch.randn(600, 4, 2), torch.randint(3, (4,))
    return traced(rnn, lambda: ce(out(rnn(x)[0][-1]), y))


def nearly_closed_output_gate() -> tt.Flow:
    torch.manual_seed(0)
    rnn, out = nn.LSTM(6, 32), nn.Linear(32, 3)
    with torch.no_grad():
        rnn.bias_hh_l0[32:64] = 6
        rnn.bias_hh_l0[96:] = -6
    x, y = torch.randn(40, 8, 6), torch.randint(3, (8,))
    return traced(rnn, lambda: ce(out(rnn(x)[0][-1]), y))


def sparse_events() -> tt.Flow:
    torch.manual_seed(0)
    rnn, out = nn.GRU(4, 32), nn.Linear(32, 1)
    x = torch.randn(60, 12, 4) * (torch.rand(60, 12, 1) < 0.06)
    y = torch.randn(60, 12, 1)
    return traced(rnn, lambda: (out(rnn(x)[0]) - y).pow(2).mean((1, 2)))


def sparse_events_asked_at_the_end() -> tt.Flow:
    from throughtime.remedies import chrono_

    torch.manual_seed(0)
    rnn, out = chrono_(nn.LSTM(4, 64), longest=60), nn.Linear(64, 1)
    x = torch.randn(60, 24, 4) * (torch.rand(60, 24, 1) < 0.08)
    y = torch.randn(24, 1)
    return traced(rnn, lambda: (out(rnn(x)[0][-1]) - y).pow(2).mean())


def memory_of_a_cue() -> tt.Flow:
    from throughtime.remedies import chrono_

    torch.manual_seed(0)
    rnn, out = chrono_(nn.LSTM(4, 64), longest=40), nn.Linear(64, 4)
    cue, at = torch.randint(4, (24,)), torch.randint(0, 6, (24,))
    x = torch.zeros(40, 24, 4)
    x[at, torch.arange(24), cue] = 1
    return traced(rnn, lambda: ce(out(rnn(x)[0][-1]), cue))


def sigmoid_outputs_near_their_ends() -> tt.Flow:
    torch.manual_seed(0)
    rnn, out = nn.LSTM(4, 24), nn.Linear(24, 1)
    x, y = torch.randn(20, 8, 4), torch.randint(2, (20, 8, 1)).float()

    def losses() -> Tensor:
        p = (8 * out(rnn(x)[0])).sigmoid()
        each = nn.functional.binary_cross_entropy(p, y, reduction="none")
        return each.mean((1, 2))

    return traced(rnn, losses)


def tagger_with_packed_rows() -> tt.Flow:
    torch.manual_seed(0)
    rnn, out = nn.LSTM(6, 20, bidirectional=True), nn.Linear(40, 4)
    lengths = torch.tensor([25, 18, 7, 3])
    x, y = torch.randn(25, 4, 6), torch.randint(4, (25, 4))
    y[torch.arange(25)[:, None] >= lengths] = -100

    def loss() -> Tensor:
        h, _ = pad_packed_sequence(rnn(pack_padded_sequence(x, lengths))[0])
        return ce(out(h).flatten(0, 1), y.flatten(), ignore_index=-100)

    return traced(rnn, loss)


def masked_language_model() -> tt.Flow:
    torch.manual_seed(0)
    model = Classifier(nn.GRU, "mean")
    tokens, _, _ = texts(low=30, high=60)
    head = nn.Linear(32, 40)

    def loss() -> Tensor:
        h, _ = model.rnn(model.embed(tokens[:, :-1]))
        return ce(head(h).flatten(0, 1), tokens[:, 1:].flatten(), ignore_index=0)

    return traced(model.rnn, loss)


def episodes_with_resets() -> tt.Flow:
    torch.manual_seed(0)
    rnn, value = tt.GRU(6, 32), nn.Linear(32, 1)
    x, reset = torch.randn(50, 8, 6), torch.rand(50, 8) < 0.08
    y = torch.randn(50, 8, 1)
    return traced(rnn, lambda: (value(rnn(x, reset=reset)[0]) - y).pow(2).mean())


def learned_initial_state() -> tt.Flow:
    torch.manual_seed(0)
    model = nn.ModuleDict({"rnn": nn.GRU(4, 16), "out": nn.Linear(16, 1)})
    model.register_parameter("h_0", nn.Parameter(torch.zeros(1, 1, 16)))
    x = torch.randn(7, 5, 4)

    def losses() -> Tensor:
        h, _ = model["rnn"](x, model.h_0.expand(1, 5, 16).contiguous())
        return model["out"](h).pow(2).mean((1, 2))

    return traced(model, losses)


def translator() -> tt.Flow:
    torch.manual_seed(0)
    model = nn.ModuleDict({"enc": nn.LSTM(6, 24), "dec": nn.LSTM(6, 24), "out": nn.Linear(24, 6)})
    x, y = torch.randn(9, 5, 6), torch.randn(8, 5, 6)

    def losses() -> Tensor:
        _, state = model["enc"](x)
        h, _ = model["dec"](torch.cat((y[:1] * 0, y[:-1])), state)
        return (model["out"](h) - y).pow(2).mean((1, 2))

    return traced(model, losses)


def frozen_encoder() -> tt.Flow:
    torch.manual_seed(0)
    model = nn.ModuleDict({"enc": nn.LSTM(6, 24), "rnn": nn.GRU(24, 24), "out": nn.Linear(24, 2)})
    for p in model["enc"].parameters():
        p.requires_grad_(False)
    x, y = torch.randn(8, 6, 6), torch.randint(2, (6,))
    return traced(
        model, lambda: ce(model["out"](model["rnn"](model["enc"](x)[0].detach())[0].mean(0)), y)
    )


def identity_relu_network() -> tt.Flow:
    torch.manual_seed(0)
    rnn, out = nn.RNN(2, 64, nonlinearity="relu"), nn.Linear(64, 1)
    with torch.no_grad():
        rnn.weight_hh_l0.copy_(torch.eye(64))
        rnn.bias_hh_l0.zero_()
        rnn.bias_ih_l0.zero_()
    x, y = torch.randn(100, 8, 2) * 0.1, torch.randn(8, 1)
    return traced(rnn, lambda: (out(rnn(x)[0][-1]) - y).pow(2).mean())


def orthogonal_linear_network() -> tt.Flow:
    torch.manual_seed(0)
    rnn, out = tt.RNN(3, 32, nonlinearity="identity"), nn.Linear(32, 1)
    with torch.no_grad():
        rnn.weight_hh_l0.copy_(torch.linalg.qr(torch.randn(32, 32))[0])
    x, y = torch.randn(150, 8, 3), torch.randn(8, 1)
    return traced(rnn, lambda: (out(rnn(x)[0][-1]) - y).pow(2).mean())


def a_sum_of_many_losses() -> tt.Flow:
    torch.manual_seed(0)
    rnn, out = tt.RNN(3, 32, nonlinearity="identity"), nn.Linear(32, 1)
    with torch.no_grad():
        rnn.weight_hh_l0.copy_(torch.linalg.qr(torch.randn(32, 32))[0])
    x, y = torch.randn(250, 4, 3), torch.randn(250, 4, 1)
    return traced(rnn, lambda: (out(rnn(x)[0]) - y).pow(2).sum())


def forecast_with_a_blank_horizon() -> tt.Flow:
    torch.manual_seed(0)
    rnn, out = nn.GRU(2, 32), nn.Linear(32, 1)
    x, y = torch.randn(20, 8, 2), torch.randn(6, 8, 1)
    x[14:] = 0
    return traced(rnn, lambda: (out(rnn(x)[0][14:]) - y).pow(2).mean())


def one_row_alone() -> tt.Flow:
    torch.manual_seed(0)
    rnn, out = nn.LSTM(3, 16), nn.Linear(16, 1)
    x, y = torch.randn(15, 1, 3), torch.randn(15, 1, 1)
    return traced(rnn, lambda: (out(rnn(x)[0]) - y).pow(2).mean((1, 2)))


CASES = [
    Case("log of 0 in a GRU's input", ("input-nonfinite",), log_of_zero_in_a_gru),
    Case("all weights NaN", ("weight-nonfinite",), weights_are_nan_since_the_last_update),
    Case("a bias of the head is inf", ("weight-nonfinite",), one_head_weight_is_inf),
    Case("NaN in c_0", ("initial-state-nonfinite",), carried_state_is_nan),
    Case("NaN among the targets", ("loss-nonfinite",), nan_among_the_targets),
    Case("root of 0 in the loss", ("loss-gradient-nonfinite",), root_of_zero_in_the_loss),
    Case("norm of 0 in the cell", ("derivative-nonfinite",), norm_inside_a_cell),
    Case("linear states overflow", ("state-overflow",), linear_states_overflow),
    Case("a GRU's gradient overflows", ("gradient-overflow",), gradient_of_a_gru_overflows),
    Case("out[-1] with batch_first", ("rows-without-gradient",), batch_of_the_first_read_as_time),
    Case("axes swapped, two layers", ("rows-without-gradient",), axes_swapped_in_two_layers),
    Case("GRU both ways, read at [-1]", ("reverse-reads-one-step",), reverse_of_a_gru_at_the_end,
         reverse_read_by_h_n),
    Case("two layers both ways, padded, read at the end",
         ("reverse-reads-one-step", "reads-padding"), two_layers_both_ways_at_the_end),
    Case("read at the first step", ("reads-one-step",), reads_the_first_step),
    Case("encoder detached", ("no-gradient",), encoder_detached, translator),
    Case("reverse half thrown away", ("no-gradient",), reverse_half_thrown_away),
    Case("a second layer is never called", ("parameter-unreached",), a_second_rnn_is_never_called),
    Case("a raw weight gets nothing", ("parameter-unreached",), raw_weight_gets_nothing),
    Case("state of the last batch", ("state-on-old-graph",), state_of_the_last_batch),
    Case("padded tokens read at the end", ("reads-padding",), padded_tokens_read_at_the_end,
         padded_tokens_packed),
    Case("padded tokens, two layers", ("reads-padding",), padded_tokens_two_layers),
    Case("padded with the last frame", ("reads-padding",), padded_with_the_last_frame),
    Case("padded with -1", ("reads-padding",), padded_with_minus_one),
    Case("mean over padded tokens", ("reads-padding",), lambda: classified("mean"),
         lambda: classified("masked mean")),
    Case("one feature in years", ("input-scale",), one_feature_in_years),
    Case("pixels as bytes", ("input-scale",), pixels_as_bytes),
    Case("token numbers as numbers", ("input-scale",), token_numbers_as_numbers),
    Case("most ReLU units dead", ("dead-units",), relu_units_dead_in_part),
    Case("ReLU units dead in a cell of one's own", ("dead-units",), relu_in_a_cell_of_ones_own),
    Case("biases of 20", ("saturated",), biases_of_twenty),
    Case("gates held shut", ("saturated",), gates_of_an_lstm_held_shut),
    Case("LSTM asked 120 steps later", ("vanishes", "underflow"), lstm_asked_much_later),
    Case("GRU of two layers asked 90 steps later", ("vanishes",), gru_of_two_layers_asked_later),
    Case("tanh with too much gain", ("explodes",), tanh_with_too_much_gain),
    Case("ReLU with too much gain", ("explodes",), relu_with_too_much_gain),
    Case("220 steps of an LSTM", ("underflow", "vanishes"), half_precision_underflows),
    Case("sound: default RNN, 8 steps", (), lambda: default(nn.RNN)),
    Case("sound: default LSTM, 10 steps", (), lambda: default(nn.LSTM, 10)),
    Case("sound: default GRU, 12 steps, two layers", (), lambda: default(nn.GRU, 12, num_layers=2)),
    Case("sound: default LSTM, 14 steps", (), lambda: default(nn.LSTM, 14)),
    Case("sound: default ReLU RNN, 6 steps", (), lambda: default(nn.RNN, 6, nonlinearity="relu")),
    Case("sound: language model, LSTM", (), language_model),
    Case("sound: language model, tanh", (), lambda: language_model(nn.RNN)),
    Case("sound: language model, one scalar, one-hot", (), scalar_language_model),
    Case("sound: chrono GRU", (), chrono_gru),
    Case("sound: chrono LSTM for 600 steps", (), chrono_for_a_thousand),
    Case("sound: output gate nearly closed", (), nearly_closed_output_gate),
    Case("sound: sparse events", (), sparse_events),
    Case("sound: sparse events, asked at the end", (), sparse_events_asked_at_the_end),
    Case("sound: memory of a cue", (), memory_of_a_cue),
    Case("sound: sigmoid outputs near their ends", (), sigmoid_outputs_near_their_ends),
    Case("sound: tagger with packed rows", (), tagger_with_packed_rows),
    Case("sound: masked language model", (), masked_language_model),
    Case("sound: masked mean", (), lambda: classified("masked mean")),
    Case("sound: each row's own last step", (), lambda: classified("own last", nn.LSTM)),
    Case("sound: episodes with resets", (), episodes_with_resets),
    Case("sound: learned initial state", (), learned_initial_state),
    Case("sound: translator", (), translator),
    Case("sound: frozen encoder", (), frozen_encoder),
    Case("sound: identity and ReLU", (), identity_relu_network),
    Case("sound: orthogonal and linear", (), orthogonal_linear_network),
    Case("sound: a sum of many losses", (), a_sum_of_many_losses),
    Case("sound: forecast with a blank horizon", (), forecast_with_a_blank_horizon),
    Case("sound: one row alone", (), one_row_alone),
]  # fmt: skip
