"""Each remedy's formula against its source, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import layer_norm

import throughtime as tt
from throughtime.errors import InputTypeError, InputValueError, ShapeError, UnsupportedError
from throughtime.remedies import (
    REMEDIES,
    edge_gain,
    floss_,
    forget_bias_,
    gated,
    identity_relu_,
    in_dtype,
    layer_normed,
    leaky,
    refined,
    scale_recurrent_,
    standardised,
    uniform_gates_,
    with_lengths,
)
from throughtime.remedies.flossing import layer_cell, leading_exponents
from throughtime.testing import assert_close

pytestmark = pytest.mark.usefixtures("float64")


def sums(layer: nn.Module, suffix: str = "_l0") -> torch.Tensor:
    return (getattr(layer, f"bias_ih{suffix}") + getattr(layer, f"bias_hh{suffix}")).detach()


# --- the gates' biases -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "suffix", "gates"),
    [
        (lambda: nn.LSTM(3, 7), "_l0", 4),
        (lambda: tt.GRU(3, 7), "_l0", 3),
        (lambda: nn.LSTMCell(3, 7), "", 4),
        (lambda: nn.GRUCell(3, 7), "", 3),
    ],
)
def test_the_forget_bias_is_one_and_nothing_else_changes(make, suffix, gates):
    layer = make()
    before = {n: p.detach().clone() for n, p in layer.named_parameters()}
    forget_bias_(layer)
    blocks = sums(layer, suffix).chunk(gates)
    assert (blocks[1] == 1).all()
    for name, p in layer.named_parameters():
        kept = [i for i in range(gates) if i != 1 or "weight" in name]
        for i in kept:
            assert (p.chunk(gates)[i] == before[name].chunk(gates)[i]).all()


@pytest.mark.parametrize("kind", [nn.LSTM, tt.LSTM])
def test_uniform_gates_of_an_lstm(kind):
    H = 400
    layer = uniform_gates_(kind(2, H), torch.Generator().manual_seed(1))
    i, f, _, _ = sums(layer).chunk(4)
    u = f.sigmoid().sort().values
    assert u[0] >= 1 / H - 1e-12 and u[-1] <= 1 - 1 / H + 1e-12
    # Kolmogorov and Smirnov's distance from the uniform distribution, 1 % point.
    grid = torch.arange(1, H + 1) / H
    assert (u - grid).abs().max() < 1.63 / math.sqrt(H) + 1 / H
    assert_close(i, -f, rtol=1e-15)


def test_uniform_gates_of_a_gru_change_z_alone():
    layer = tt.GRU(2, 50)
    r, _, n = (b.clone() for b in sums(layer).chunk(3))
    uniform_gates_(layer)
    after = sums(layer).chunk(3)
    assert (after[0] == r).all() and (after[2] == n).all()
    assert 0.3 < after[1].sigmoid().mean() < 0.7


@pytest.mark.parametrize("change", [forget_bias_, uniform_gates_])
def test_what_has_no_gates_is_refused(change):
    with pytest.raises(InputTypeError, match="Use an LSTM or a GRU"):
        change(nn.RNN(3, 4))
    with pytest.raises(InputTypeError, match="got Linear"):
        change(nn.Linear(3, 4))
    with pytest.raises(InputValueError, match="bias=True"):
        change(nn.LSTM(3, 4, bias=False))


# --- W_h -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [nn.RNN, tt.RNN])
def test_an_irnn_adds_up_what_it_reads_and_passes_the_gradient_on_whole(kind):
    layer = identity_relu_(kind(3, 5, num_layers=2))
    x = torch.randn(8, 2, 3)
    h = torch.zeros(2, 2, 5)
    for x_t in x:
        for i in range(2):
            x_t = (x_t @ getattr(layer, f"weight_ih_l{i}").T + h[i]).relu()
            h = torch.stack([x_t if j == i else h[j] for j in range(2)])
    assert_close(layer(x)[1], h, rtol=1e-13)
    with tt.trace(layer) as trace:
        loss = layer(x)[0][-1].sum()
    J = trace.flow(loss)["l1"].jacobian(5)
    assert set(J.unique().tolist()) <= {0.0, 1.0}
    assert (J.transpose(1, 2) == J).all()
    assert 0 < layer.weight_ih_l0.abs().max().item() < 0.01


def test_an_irnn_is_made_of_a_plain_layer_alone():
    with pytest.raises(InputTypeError, match="use chrono_"):
        identity_relu_(nn.LSTM(3, 4))


def test_the_gain_at_the_edge_of_a_linear_layer_is_one_over_its_radius():
    layer = tt.RNN(2, 6, nonlinearity="identity")
    with torch.no_grad():
        layer.weight_hh_l0.copy_(0.3 * torch.linalg.qr(torch.randn(6, 6))[0])
    x = torch.randn(30, 2, 2)
    found = tt.treat(layer, lambda m: m(x)[0][-1].sum(), only="edge-gain")
    gain = float(found["edge-gain"].changes[0].code.rpartition(", ")[2].rstrip(")"))
    assert abs(math.log(gain * 0.3)) < 0.005


def test_at_the_edge_the_leading_exponent_is_zero_on_the_batch():
    layer, x = tt.RNN(3, 20, num_layers=2), torch.randn(60, 4, 3)
    found = tt.treat(layer, lambda m: m(x)[0][-1].pow(2).mean(), only="edge-gain")
    found.apply(layer)
    with tt.trace(layer) as trace:
        loss = layer(x)[0][-1].pow(2).mean()
    for flow in trace.flow(loss).values():
        assert abs(float(flow.lyapunov(1).mean())) < 0.01


def test_no_gain_where_there_is_none():
    with pytest.raises(UnsupportedError, match="no gain between"):
        edge_gain(lambda gain: -1.0)
    with pytest.raises(UnsupportedError, match=r"nearest is -0\.2 nats a step, at a gain of 2\.56"):
        edge_gain(lambda gain: -0.2 - abs(math.log(gain / 2.56)))
    with pytest.raises(UnsupportedError, match="nan"):
        edge_gain(lambda gain: math.nan)


def test_scaling_takes_one_gain_or_one_for_each():
    layer = tt.RNN(3, 4, num_layers=2)
    before = [layer.weight_hh_l0.detach().clone(), layer.weight_hh_l1.detach().clone()]
    scale_recurrent_(layer, 2.0, 0.5)
    assert (layer.weight_hh_l0 == 2 * before[0]).all()
    assert (layer.weight_hh_l1 == 0.5 * before[1]).all()
    with pytest.raises(InputValueError, match="one for each of 2"):
        scale_recurrent_(layer, 1.0, 1.0, 1.0)
    with pytest.raises(InputValueError, match="above 0"):
        scale_recurrent_(layer, -1.0)
    with pytest.raises(InputTypeError, match="must be a number"):
        scale_recurrent_(layer, "2")


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_exponents_with_a_graph_are_those_of_the_flow(kind):
    layer, x = kind(2, 5), torch.randn(25, 3, 2)
    with tt.trace(layer) as trace:
        loss = layer(x)[0].pow(2).mean()
    expected = trace.flow(loss)["l0"].lyapunov(3)
    assert_close(leading_exponents(layer_cell(layer), x, 3), expected, rtol=1e-8)


def test_the_gradient_of_the_exponents_is_that_of_finite_differences():
    layer, x = nn.RNN(2, 4), torch.randn(12, 2, 2)
    cell = layer_cell(layer)

    def loss() -> torch.Tensor:
        return leading_exponents(cell, x, 2).pow(2).mean()

    (grad,) = torch.autograd.grad(loss(), [layer.weight_hh_l0])
    along, step = torch.randn(4, 4), 1e-6
    with torch.no_grad():
        layer.weight_hh_l0 += step * along
        above = loss()
        layer.weight_hh_l0 -= 2 * step * along
        below = loss()
    assert_close((above - below) / (2 * step), (grad * along).sum(), rtol=1e-6)


def test_flossing_pulls_the_exponents_to_zero():
    torch.manual_seed(0)
    layer, x = nn.RNN(3, 16, batch_first=True), torch.randn(4, 40, 3)

    def exponents() -> torch.Tensor:
        with tt.trace(layer) as trace:
            loss = layer(x)[0].pow(2).mean()
        return trace.flow(loss)["l0"].lyapunov(4).mean(0)

    before = exponents().abs().max()
    floss_(layer, x, exponents=4, updates=80)
    assert exponents().abs().max() < 0.1 * before
    assert all(p.grad is None for p in layer.parameters())


def test_flossing_refuses_what_it_cannot_take():
    x = torch.randn(5, 2, 3)
    with pytest.raises(InputValueError, match="two"):
        floss_(nn.RNN(3, 4, bidirectional=True), x)
    with pytest.raises(InputTypeError, match="over a sequence"):
        floss_(nn.RNNCell(3, 4), x)
    with pytest.raises(InputValueError, match="updates"):
        floss_(nn.RNN(3, 4), x, updates=0)
    with pytest.raises(ShapeError):
        floss_(nn.RNN(3, 4), x[0])


# --- another cell ----------------------------------------------------------------------------


@pytest.mark.parametrize("batch_first", [False, True])
def test_leaky_layers_over_the_same_weights(batch_first):
    layer = nn.RNN(3, 4, num_layers=2, batch_first=batch_first)
    other = leaky(layer, 0.25)
    x, h_0 = torch.randn(6, 2, 3), torch.randn(2, 2, 4)
    h, outputs = h_0, []
    for x_t in x:
        new = []
        for i in range(2):
            ih, hh, bi, bh = (
                getattr(layer, f"{n}_l{i}")
                for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            x_t = 0.75 * h[i] + 0.25 * torch.tanh(x_t @ ih.T + h[i] @ hh.T + bi + bh)
            new.append(x_t)
        h = torch.stack(new)
        outputs.append(x_t)
    read = x.transpose(0, 1) if batch_first else x
    output, h_n = other(read, h_0)
    assert_close(
        output.transpose(0, 1) if batch_first else output, torch.stack(outputs), rtol=1e-12
    )
    assert_close(h_n, h, rtol=1e-12)


def test_a_layer_normed_lstm_over_the_same_weights():
    layer = nn.LSTM(3, 4)
    other = layer_normed(layer)
    x = torch.randn(6, 2, 3)
    h, c = torch.randn(2, 4), torch.randn(2, 4)
    start = (h[None], c[None])
    for x_t in x:
        u = layer_norm(x_t @ layer.weight_ih_l0.T, (16,))
        w = layer_norm(h @ layer.weight_hh_l0.T, (16,))
        i, f, g, o = (u + w + layer.bias_ih_l0 + layer.bias_hh_l0).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * layer_norm(c, (4,)).tanh()
    output, (h_n, c_n) = other(x, start)
    for found, expected in ((h_n[0], h), (c_n[0], c), (output[-1], h)):
        assert_close(found, expected, rtol=1e-11)


@pytest.mark.parametrize("kind", [nn.LSTM, tt.LSTM])
def test_refine_gates_over_the_same_weights_begin_as_the_paper_has_it(kind):
    """With L the linear part of each gate: f = σ(L_f + b), r = σ(L_r − b)."""
    layer = kind(3, 5, num_layers=2, batch_first=True).eval()
    other = refined(layer, torch.Generator().manual_seed(0))
    assert not other.training
    x = torch.randn(2, 6, 3)
    start = torch.randn(2, 2, 2, 5)
    read, finals = x.transpose(0, 1), []
    for number, cell in enumerate(part.cell for part in other.layers):
        W_x, W_h = (getattr(layer, f"weight_{k}_l{number}").detach() for k in ("ih", "hh"))
        bias = (cell.bias_ih + cell.bias_hh).detach()
        b, old = bias[5:10], sums(layer, f"_l{number}")
        assert (b.sigmoid() >= 0.2).all() and (b.sigmoid() <= 0.8).all() and b.std() > 0.1
        assert_close(bias[:5], -b, rtol=1e-15)
        assert_close(bias[10:], old[10:], rtol=1e-15)
        h, c = start[0, number], start[1, number]
        outputs = []
        for x_t in read:
            r, f, u, o = (x_t @ W_x.T + h @ W_h.T).chunk(4, 1)
            u, o = u + old[10:15], o + old[15:]
            f, r = torch.sigmoid(f + b), torch.sigmoid(r - b)
            g = r * (1 - (1 - f) ** 2) + (1 - r) * f**2
            c = g * c + (1 - g) * u.tanh()
            h = o.sigmoid() * c.tanh()
            outputs.append(h)
        read = torch.stack(outputs)
        finals.append((h, c))
    output, (h_n, c_n) = other(x, (start[0], start[1]))
    assert_close(output, read.transpose(0, 1), rtol=1e-12)
    for i, (h, c) in enumerate(finals):
        assert_close(h_n[i], h, rtol=1e-12)
        assert_close(c_n[i], c, rtol=1e-12)


def test_refine_gates_need_three_units_and_biases_and_the_cell_begins_alike():
    for wrong in (nn.LSTM(3, 2), nn.LSTM(3, 4, bias=False)):
        with pytest.raises(InputValueError):
            refined(wrong)
    cell = tt.cells.RefineLSTM(2, 400)
    r, f, _, _ = (cell.bias_ih + cell.bias_hh).detach().chunk(4)
    u = f.sigmoid().sort().values
    assert (u - torch.arange(1, 401) / 400).abs().max() < 1.63 / 20 + 1 / 400
    assert u[0] >= 1 / 400 - 1e-12 and u[-1] <= 1 - 1 / 400 + 1e-12
    assert_close(r, -f, rtol=1e-15)
    assert tt.cells.RefineLSTM(2, 2).bias_ih.abs().max() <= 1 / math.sqrt(2)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.RNN(3, 5, num_layers=2, bidirectional=True, batch_first=True),
        lambda: tt.RNN(3, 5),
        lambda: nn.RNNCell(3, 5),
    ],
)
def test_a_gated_cell_of_the_same_call(make):
    layer = make()
    other = gated(layer, longest=40, generator=torch.Generator().manual_seed(0))
    x = torch.randn(2, 3) if isinstance(layer, nn.RNNCell) else torch.randn(4, 2, 3)
    for a, b in zip(layer(x), other(x), strict=True):
        assert a.shape == b.shape
    assert isinstance(other, (nn.GRU, tt.GRU, nn.GRUCell))
    z = sums(other, "" if isinstance(layer, nn.RNNCell) else "_l0").chunk(3)[1]
    assert (z >= 0).all() and (z <= math.log(39)).all()
    weight = next(p for n, p in other.named_parameters() if n.startswith("weight_hh"))
    assert 0.3 < weight.abs().max() <= 1 / math.sqrt(5)


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (gated, nn.LSTM(3, 4)),
        (lambda m: leaky(m, 0.1), nn.GRU(3, 4)),
        (lambda m: leaky(m, 0.1), nn.RNN(3, 4, bidirectional=True)),
        (layer_normed, nn.LSTM(3, 4, proj_size=2)),
        (layer_normed, nn.GRU(3, 4)),
        (refined, nn.LSTM(3, 4, bidirectional=True)),
        (refined, nn.GRU(3, 4)),
        (with_lengths, nn.Linear(3, 4)),
    ],
)
def test_other_layers_are_refused_in_a_sentence(change, wrong):
    with pytest.raises(InputTypeError, match=type(wrong).__name__):
        change(wrong)


# --- around a layer --------------------------------------------------------------------------


def test_a_standardised_input_and_its_statistics_in_the_state_dict():
    x = torch.tensor([30_000.0, -2.0]) + torch.tensor([400.0, 0.01]) * torch.randn(40, 8, 2)
    x = torch.cat((x, torch.full((40, 8, 1), 7.0)), -1)  # a feature that does not vary
    layer = nn.LSTM(3, 5)
    around = standardised(layer, x)
    flat = x.flatten(0, 1)
    spread = flat.std(0, unbiased=False)
    spread[2] = 1
    assert_close(around(x)[0], layer((x - flat.mean(0)) / spread)[0], rtol=1e-9)
    again = standardised(nn.LSTM(3, 5), mean=[0.0] * 3, scale=[1.0] * 3)
    again.load_state_dict(around.state_dict())
    assert (again(x)[0] == around(x)[0]).all()
    packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([40] * 8))
    assert_close(around(packed)[0].data, nn.utils.rnn.pack_padded_sequence(
        around(x)[0], torch.tensor([40] * 8)).data, rtol=1e-12)  # fmt: skip
    assert around.hidden_size == 5 and around.weight_hh_l0 is layer.weight_hh_l0
    with pytest.raises(AttributeError):
        _ = around.nothing


def test_statistics_that_cannot_be_used_are_refused():
    with pytest.raises(InputValueError, match="give inputs"):
        standardised(nn.LSTM(2, 3))
    with pytest.raises(ShapeError, match=r"\(I,\)"):
        standardised(nn.LSTM(2, 3), mean=[0.0], scale=[1.0, 1.0])
    with pytest.raises(InputValueError, match="finite"):
        standardised(nn.LSTM(2, 3), torch.tensor([[1.0, math.nan]]))


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, tt.GRU])
@pytest.mark.parametrize("batch_first", [False, True])
def test_lengths_are_found_and_the_end_is_held(kind, batch_first):
    plain = kind(2, 4, batch_first=batch_first)
    x, lengths = torch.randn(9, 4, 2), torch.tensor([9, 4, 6, 1])
    for row, length in enumerate(lengths):
        x[length:, row] = 0.5
    read = x.transpose(0, 1) if batch_first else x
    expected, state = [], []
    for row, length in enumerate(lengths):
        own = x[:length, row : row + 1]
        output, last = plain(own.transpose(0, 1) if batch_first else own)
        expected.append((output[0] if batch_first else output[:, 0])[-1])
        state.append(last[0] if isinstance(last, tuple) else last)
    around = with_lengths(plain)
    output, last = around(read)
    end = output[:, -1] if batch_first else output[-1]
    assert_close(end, torch.stack(expected), rtol=1e-12)
    assert_close(last[0] if isinstance(last, tuple) else last, torch.cat(state, 1), rtol=1e-12)
    (grad,) = torch.autograd.grad(end[1].sum(), [plain.weight_hh_l0])
    (again,) = torch.autograd.grad(expected[1].sum(), [plain.weight_hh_l0])
    assert_close(grad, again, rtol=1e-10)


def test_rows_without_padding_keep_all_their_steps():
    x = torch.randn(7, 3, 2)
    layer = nn.GRU(2, 4)
    expected = layer(x)[0]
    assert_close(with_lengths(layer)(x)[0], expected, rtol=1e-12)


def test_in_a_wider_dtype_what_was_zero_is_not():
    torch.set_default_dtype(torch.float32)
    layer = tt.RNN(1, 1, nonlinearity="sigmoid")
    with torch.no_grad():
        layer.weight_hh_l0.fill_(1.0)
        for name in ("weight_ih_l0", "bias_hh_l0"):
            getattr(layer, name).zero_()
        layer.bias_ih_l0.fill_(-0.5)

    def losses(model: nn.Module) -> torch.Tensor:
        return model(torch.zeros(90, 1, 1), torch.full((1, 1, 1), 0.5))[0][-1].sum()

    found = tt.treat(layer, losses, only="dtype", lag=80)
    row = found["dtype"]
    assert row.before is not None and row.before.at_lag == 0
    assert row.after is not None
    assert row.after.at_lag == pytest.approx(0.25**80, rel=1e-5)
    assert not row.helps  # far from 1 %
    wide = in_dtype(nn.LSTM(1, 2), torch.float64)
    output, (h, c) = wide(torch.zeros(3, 1, 1), (torch.zeros(1, 1, 2), torch.zeros(1, 1, 2)))
    assert {output.dtype, h.dtype, c.dtype} == {torch.float32}
    with pytest.raises(InputTypeError, match="floating-point"):
        in_dtype(nn.LSTM(1, 2), torch.int32)


# --- the table -------------------------------------------------------------------------------

CODES = {
    "input-nonfinite", "loss-nonfinite", "state-overflow", "gradient-overflow", "weight-nonfinite",
    "initial-state-nonfinite", "loss-gradient-nonfinite", "derivative-nonfinite", "input-scale",
    "saturated", "dead-units", "reads-padding", "reverse-reads-one-step", "rows-without-gradient",
    "no-gradient", "state-cut", "state-on-old-graph", "parameter-unreached", "vanishes", "explodes",
    "underflow",
}  # fmt: skip


@pytest.mark.parametrize("name", REMEDIES)
def test_every_row_says_all_that_a_reader_needs(name):
    remedy = REMEDIES[name]
    assert remedy.name == name and set(remedy.against) <= CODES
    for text in (remedy.what, remedy.formula, remedy.source, remedy.gains):
        assert len(text) > 10
    assert remedy.what.endswith(".") and remedy.gains.endswith(".")
