"""`convert` says what it left alone, and `unconvert` gives torch's layers back."""

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import throughtime as tt
from throughtime.layers.recurrent_kinds import left_alone, looks_recurrent
from throughtime.testing import assert_close

pytestmark = pytest.mark.usefixtures("float64")

I, H, T, B = 3, 4, 6, 2


class OwnForward(nn.LSTM):
    def forward(self, input, hx=None):
        return super().forward(input * 2, hx)


class OwnInit(nn.GRU):
    def __init__(self):
        super().__init__(I, H)


class Spiking(nn.Module):
    def forward(self, x, prev_state=None):
        return x


class LIFCell(nn.Module):
    def forward(self, x, state=None):
        return x, state


class LeakyNeuron(nn.Module):
    def forward(self, x, mem):
        return mem


class Leaky(LeakyNeuron):
    def forward(self, x, mem):
        return super().forward(x, mem)


class Policy(nn.Module):
    """Takes a state, and hands it to a layer that is converted."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(I, H)

    def forward(self, x, hx):
        return self.rnn(x, hx)


class AdditiveAttention(nn.Module):
    def forward(self, memory, hidden):
        return memory * hidden


class LocationAttn(nn.Module):
    def forward(self, memory, h_prev, prev_state=None):
        return memory * h_prev


class Critic(nn.Module):
    def forward(self, action, state):
        return action + state


class Block(nn.Module):
    def forward(self, hidden_states, attention_mask=None, past_key_values=None):
        return hidden_states


class Bag(nn.Module):
    def forward(self, *args):
        return args[0]


RECURRENT = [
    (lambda: nn.LSTMCell(I, H), "is an nn.LSTMCell"),
    (lambda: nn.GRUCell(I, H), "is an nn.GRUCell"),
    (lambda: nn.RNNCell(I, H), "is an nn.RNNCell"),
    (lambda: OwnForward(I, H), "a subclass of nn.LSTM with a forward of its own"),
    (OwnInit, "is a subclass of nn.GRU"),
    (Spiking, r"takes a state \(prev_state\)"),
    (LIFCell, r"takes a state \(state\)"),
    (Leaky, r"takes a state \(mem\)"),
]
OTHERS = [
    lambda: nn.TransformerEncoderLayer(4, 2),
    lambda: nn.TransformerDecoder(nn.TransformerDecoderLayer(4, 2), 1),
    lambda: nn.MultiheadAttention(4, 2),
    lambda: nn.Conv1d(3, 4, 2),
    lambda: nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.1)),
    lambda: tt.LSTM(I, H),
    lambda: tt.Recurrent(tt.cells.GRU(I, H)),
    lambda: tt.Recurrent(tt.cells.Function(LIFCell(), I, H)),
    Policy,
    AdditiveAttention,
    LocationAttn,
    Critic,
    Block,
    Bag,
    nn.Module,
    lambda: parametrized(nn.GRU(I, H)),
]


def parametrized(module):
    parametrize.register_parametrization(module, "weight_hh_l0", nn.Tanh())
    return module


@pytest.mark.parametrize(("make", "why"), RECURRENT)
def test_convert_warns_of_what_it_leaves_alone(make, why):
    model = nn.ModuleDict({"part": make(), "rnn": nn.GRU(I, H)})
    kind = type(model["part"])
    with pytest.warns(tt.ConvertWarning, match=f"left 'part' alone: .*{why}") as told:
        tt.convert(model)
    assert len(told) == 1 and told[0].filename == __file__
    assert type(model["part"]) is kind and type(model["rnn"]) is tt.GRU


def test_modules_of_one_class_are_told_of_together_and_a_model_itself_too():
    with pytest.warns(tt.ConvertWarning, match="'0', '1', '2' and 2 more alone: GRUCell") as told:
        tt.convert(nn.Sequential(*(nn.GRUCell(I, H) for _ in range(5))))
    assert len(told) == 1
    with pytest.warns(tt.ConvertWarning, match="left the LSTMCell alone"):
        tt.convert(nn.LSTMCell(I, H))


@pytest.mark.parametrize("make", OTHERS)
def test_nothing_else_is_warned_of(make):
    model = make()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tt.convert(model)
    assert not list(left_alone(model))
    assert looks_recurrent(nn.Linear(1, 1)) is None


def test_a_parametrized_cell_is_named_by_its_own_class():
    cell = nn.LSTMCell(I, H)
    parametrizations.weight_norm(cell, "weight_hh")
    assert looks_recurrent(cell) == "is an nn.LSTMCell, which takes one step a call"


def run(module, x):
    output, state = module(x)
    parts = state if isinstance(state, tuple) else (state,)
    loss = output.sin().sum() + sum(part.cos().sum() for part in parts)
    return [output, *torch.autograd.grad(loss, list(module.parameters()))]


KINDS = {
    "RNN": (tt.RNN, nn.RNN, {}),
    "relu": (tt.RNN, nn.RNN, {"nonlinearity": "relu"}),
    "LSTM": (tt.LSTM, nn.LSTM, {}),
    "GRU": (tt.GRU, nn.GRU, {"num_layers": 2, "bidirectional": True}),
    "projected": (tt.LSTM, nn.LSTM, {"proj_size": 2, "bias": False}),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_parametrized", [False, True])
def test_unconvert_gives_torchs_layer_over_the_same_parameters(kind, is_parametrized):
    ours, theirs, options = KINDS[kind]
    module = ours(I, H, **options)
    if is_parametrized:
        parametrized(module)
    model, x = nn.Sequential(module), torch.randn(T, B, I)
    want, before = run(module, x), dict(model.named_parameters())
    assert tt.unconvert(model) is model and model[0] is module
    assert isinstance(module, theirs) and not isinstance(module, ours)
    assert is_parametrized or type(module) is theirs
    now = dict(model.named_parameters())
    assert list(now) == list(before) and all(now[n] is p for n, p in before.items())
    twin = copy.deepcopy(module)
    for got, true in zip(run(module, x), want, strict=True):
        assert_close(got, true, rtol=1e-10)
    # And to and fro, by a copy, and after a weight was changed.
    with torch.no_grad():
        for p in module.parameters():
            p.mul_(0.5)
        for p in twin.parameters():
            p.mul_(0.5)
    again = run(twin, x)
    for got, true in zip(run(module, x), again, strict=True):
        assert_close(got, true, rtol=1e-12)
    assert isinstance(tt.convert(module), ours)
    for got, true in zip(run(module, x), again, strict=True):
        assert_close(got, true, rtol=1e-10)


def test_the_flat_weights_are_the_parameters_also_after_one_was_replaced():
    layer = tt.LSTM(I, H)
    layer.weight_hh_l0 = nn.Parameter(torch.randn(4 * H, H))
    tt.unconvert(layer)
    assert [id(w) for w in layer._flat_weights] == [id(p) for p in layer.parameters()]
    x = torch.randn(T, B, I)
    assert_close(pickle.loads(pickle.dumps(layer))(x)[0], layer(x)[0], rtol=0)


def test_a_schedule_is_dropped_with_a_word():
    model = nn.ModuleList([tt.GRU(I, H, through=tt.Truncated(2)), tt.GRU(I, H)])
    with pytest.warns(tt.ConvertWarning, match=r"dropped the schedule of 0 \(Truncated\(window=2"):
        tt.unconvert(model)
    assert type(model[0]) is nn.GRU and "through" not in vars(model[0])
    assert tt.convert(model[0]).through == tt.Full()


@pytest.mark.parametrize(
    "last",
    [
        lambda: tt.RNN(I, H, nonlinearity="sigmoid"),
        lambda: parametrized(tt.RNN(I, H, nonlinearity="identity")),
        lambda: tt.Recurrent(tt.cells.LSTM(I, H)),
    ],
)
def test_what_torch_cannot_express_is_refused_before_anything_is_changed(last):
    model = nn.ModuleDict({"first": tt.LSTM(I, H), "last": last()})
    with pytest.raises(tt.errors.UnsupportedError, match=r"'last' is a tt\.R.*nothing was changed"):
        tt.unconvert(model)
    assert type(model["first"]) is tt.LSTM


def test_a_subclass_is_left_alone_with_a_word():
    class Mine(tt.LSTM):
        pass

    model = nn.ModuleDict({"mine": Mine(I, H)})
    with pytest.warns(tt.ConvertWarning, match=r"left mine \(Mine\) alone"):
        tt.unconvert(model)
    assert type(model["mine"]) is Mine
    with pytest.warns(tt.ConvertWarning, match=r"is a subclass of tt\.LSTM"):
        tt.convert(model)


def test_unconvert_refuses_what_is_no_module():
    with pytest.raises(tt.errors.InputTypeError, match="dict"):
        tt.unconvert({})


def test_a_layer_that_was_used_before_forgets_nothing_and_keeps_nothing():
    layer, x = tt.LSTM(I, H), torch.randn(T, B, I)
    run(layer, x)  # what the quick way keeps of a layer is for its class alone
    tt.unconvert(layer)
    with torch.no_grad():
        layer.weight_hh_l0.add_(0.1)
    want = run(layer, x)
    for got, true in zip(run(tt.convert(layer), x), want, strict=True):
        assert_close(got, true, rtol=1e-10)


def test_what_derives_from_two_is_named_by_torchs():
    """As pytorch-forecasting's LSTM does."""

    class Handle(nn.RNNBase):
        pass

    class Forecasting(Handle, nn.LSTM):
        def forward(self, x, hx=None):
            return super().forward(x, hx)

    assert looks_recurrent(Forecasting(I, H)) == (
        "is a subclass of nn.LSTM with a forward of its own"
    )


def test_torchrls_own_lstm_is_left_alone():
    """It derives from `nn.RNNBase` and takes what no `nn.LSTM` takes."""

    class RLLike(nn.RNNBase):
        def __init__(self):
            super().__init__("LSTM", I, H)

        def forward(self, input, hx=None, is_init=None):
            return input, hx

    with pytest.warns(tt.ConvertWarning, match=r"a subclass of nn\.RNNBase with a forward of its"):
        tt.convert(RLLike())
