"""The layers as modules: state_dict, copies, pickles, convert, parametrizations, higher grads."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.utils import parametrize

import throughtime as tt
from oracles.by_hand import F64, draw, layer
from oracles.models import per_step
from throughtime.errors import InputTypeError
from throughtime.testing import assert_close

COUNTERPARTS = [(nn.RNN, tt.RNN), (nn.LSTM, tt.LSTM), (nn.GRU, tt.GRU)]
every_pair = pytest.mark.parametrize(("theirs", "ours"), COUNTERPARTS)


class Mine(nn.LSTM):
    """A subclass that a user wrote."""

    def forward(self, input, hx=None):
        return super().forward(2 * input, hx)


class Step(nn.Module):
    """A step function that pickles."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(7, 4, dtype=F64)

    def forward(self, x, s):
        return torch.tanh(self.mix(torch.cat((x, s), 1)))


def grads(module: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """Give the gradients of a module's parameters."""
    return list(torch.autograd.grad(per_step(module(x)[0]).sum(), list(module.parameters())))


@every_pair
def test_state_dicts_load_both_ways(theirs, ours):
    options = {"num_layers": 2, "bidirectional": True, "dtype": F64}
    a, b = theirs(3, 4, **options), ours(3, 4, **options)
    assert list(a.state_dict()) == list(b.state_dict())
    x = draw(5, 2, 3)
    b.load_state_dict(a.state_dict())
    assert_close(b(x)[0], a(x)[0])
    c, d = theirs(3, 4, **options), ours(3, 4, **options)
    c.load_state_dict(d.state_dict())
    assert_close(d(x)[0], c(x)[0])


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
@pytest.mark.parametrize("kind", ["tanh", "sigmoid", "lstm", "gru", "function"])
def test_copies_are_equal_and_independent(kind, how):
    if kind == "function":
        module = tt.Recurrent(tt.cells.Function(Step(), 3, 4))
    else:
        module = layer(kind, 3, 4, num_layers=2, bidirectional=True)
    if how == "deepcopy":
        other = copy.deepcopy(module)
    elif how == "pickle":
        other = pickle.loads(pickle.dumps(module))
    else:
        file = io.BytesIO()
        torch.save(module, file)
        file.seek(0)
        other = torch.load(file, weights_only=False)
    x = draw(5, 2, 3)
    assert type(other) is type(module) and repr(other) == repr(module)
    for got, want in zip(grads(other, x), grads(module, x), strict=True):
        assert_close(got, want, rtol=0)
    before = module(x)[0]
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    assert_close(module(x)[0], before, rtol=0)


@every_pair
def test_convert_changes_the_class_in_place_and_keeps_the_parameters(theirs, ours):
    model = nn.Sequential(
        nn.Linear(3, 3), nn.ModuleDict({"rnn": theirs(3, 4, dropout=0.2, num_layers=2)})
    )
    module = model[1]["rnn"]
    before = dict(model.named_parameters())
    assert tt.convert(model) is model and model[1]["rnn"] is module
    assert type(module) is ours
    now = dict(model.named_parameters())
    assert list(now) == list(before) and all(now[n] is p for n, p in before.items())
    assert tt.convert(model) is model and type(module) is ours, "a second time changes nothing"


@every_pair
def test_convert_takes_a_layer_that_is_the_model_itself(theirs, ours):
    module = theirs(3, 4, dtype=F64)
    x = draw(5, 2, 3)
    want = grads(module, x)
    assert tt.convert(module) is module and type(module) is ours
    for got, true in zip(grads(module, x), want, strict=True):
        assert_close(got, true)


def test_convert_leaves_what_is_not_exactly_torchs_alone():
    model = nn.ModuleList(
        [Mine(3, 4), nn.LSTMCell(3, 4), nn.Linear(3, 4), nn.TransformerEncoderLayer(4, 2)]
    )
    before = [type(part) for part in model.modules()]
    with pytest.warns(tt.ConvertWarning) as told:
        tt.convert(model)
    assert len(told) == 2, "the subclass and the cell"
    assert [type(part) for part in model.modules()] == before


def test_convert_keeps_hooks_and_the_optimizer_that_holds_the_parameters():
    module = nn.GRU(3, 4, dtype=F64)
    calls = []
    module.register_forward_hook(lambda *_: calls.append("forward"))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    tt.convert(module)
    before = module.weight_hh_l0.detach().clone()
    module(draw(5, 2, 3))[0].sum().backward()
    optimizer.step()
    assert calls == ["forward"] and not torch.equal(module.weight_hh_l0, before)


def test_convert_refuses_what_is_no_module():
    with pytest.raises(InputTypeError, match="dict"):
        tt.convert({})


@every_pair
def test_parametrized_weights_work_converted_and_made_here(theirs, ours):
    x = draw(5, 2, 3)
    torch.manual_seed(1)
    want_module = theirs(3, 4, dtype=F64)
    parametrize.register_parametrization(want_module, "weight_hh_l0", nn.Tanh())
    converted = tt.convert(copy.deepcopy(want_module))
    made = ours(3, 4, dtype=F64)
    made.load_state_dict({n: p for n, p in theirs(3, 4, dtype=F64).state_dict().items()})
    parametrize.register_parametrization(made, "weight_hh_l0", nn.Tanh())
    made.load_state_dict(want_module.state_dict())
    assert isinstance(converted, ours) and parametrize.is_parametrized(converted)
    names = dict(want_module.named_parameters())
    for module in (converted, made):
        loss = per_step(module(x)[0]).sum()
        mine = dict(module.named_parameters())
        got = torch.autograd.grad(loss, [mine[n] for n in names])
        true = torch.autograd.grad(per_step(want_module(x)[0]).sum(), list(names.values()))
        for a, b in zip(got, true, strict=True):
            assert_close(a, b)
    parametrize.remove_parametrizations(converted, "weight_hh_l0")
    assert type(converted) is ours


def test_an_orthogonal_parametrization_stays_orthogonal_under_training():
    module = layer("identity", 3, 4)
    nn.utils.parametrizations.orthogonal(module, "weight_hh_l0")
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        module(draw(5, 2, 3))[0].pow(2).mean().backward()
        optimizer.step()
    W = module.weight_hh_l0.detach()
    assert_close(W @ W.T, torch.eye(4, dtype=F64), rtol=1e-12)


def double(kind: str, ragged: bool):
    """Give a function of (input, state, weights), and its arguments, for gradcheck."""
    module = layer(kind, 2, 3, bidirectional=True)
    names = [n for n, _ in module.named_parameters()]
    options = (
        {"lengths": [3, 2], "reset": torch.tensor([[0, 0], [0, 1], [0, 0]]).bool()}
        if ragged
        else {}
    )
    S = 2 if kind == "lstm" else 1
    arguments = [draw(3, 2, 2), *(draw(2, 2, 3, seed=i) for i in range(S)), *module.parameters()]

    def call(x, *rest):
        hx = rest[0] if S == 1 else tuple(rest[:S])
        weights = dict(zip(names, rest[S:], strict=True))
        output, final = torch.func.functional_call(module, weights, (x, hx), options)
        return (output, *final) if S == 2 else (output, final)

    return call, [a.detach().requires_grad_() for a in arguments]


@pytest.mark.parametrize("ragged", [False, True], ids=["plain", "ragged"])
@pytest.mark.parametrize("kind", ["tanh", "sigmoid", "lstm", "gru"])
def test_first_and_second_derivatives_pass_torchs_numerical_checks(kind, ragged):
    call, arguments = double(kind, ragged)
    assert gradcheck(call, arguments, fast_mode=True)
    assert gradgradcheck(call, arguments, fast_mode=True)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_a_hessian_vector_product_is_torchs(kind):
    torch.manual_seed(0)
    theirs = getattr(nn, kind)(3, 4, num_layers=2, dtype=F64)
    ours = tt.convert(copy.deepcopy(theirs))
    x = draw(5, 2, 3)
    found = []
    for module in (theirs, ours):
        weights = list(module.parameters())
        first = torch.autograd.grad(per_step(module(x)[0]).sum(), weights, create_graph=True)
        along = sum((g * draw(*g.shape, seed=i)).sum() for i, g in enumerate(first))
        found.append(torch.autograd.grad(along, weights))
    for got, want in zip(found[1], found[0], strict=True):
        assert_close(got, want, rtol=1e-9)


@pytest.mark.parametrize("kind", ["tanh", "lstm", "gru"])
def test_functional_call_and_jacrev_see_the_weights_they_are_given(kind):
    module = layer(kind, 2, 3)
    x = draw(4, 2, 2)
    weights = {n: draw(*p.shape, seed=9) for n, p in module.named_parameters()}
    other = copy.deepcopy(module)
    other.load_state_dict(weights)
    assert_close(torch.func.functional_call(module, weights, (x,))[0], other(x)[0], rtol=0)

    def output(w):
        return torch.func.functional_call(module, w, (x,))[0][-1, 0]

    rows = torch.func.jacrev(output)(weights)["weight_hh_l0"]
    for i in range(3):
        want = torch.autograd.grad(other(x)[0][-1, 0, i], other.weight_hh_l0)[0]
        assert_close(rows[i], want, name=f"row {i}")


@pytest.mark.parametrize("kind", ["tanh", "lstm", "gru"])
def test_gradients_with_create_graph_are_those_without_also_where_a_loss_reads_padding(kind):
    module = layer(kind, 3, 4, num_layers=2, bidirectional=True)
    x = draw(5, 2, 3).requires_grad_()
    loss = (module(x, lengths=[5, 2])[0] + 1).pow(2).sum()
    wanted = [x, *module.parameters()]
    plain = torch.autograd.grad(loss, wanted, retain_graph=True)
    graphed = torch.autograd.grad(loss, wanted, create_graph=True)
    for got, want in zip(graphed, plain, strict=True):
        assert_close(got, want)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
@pytest.mark.parametrize("ragged", [False, True], ids=["plain", "ragged"])
@pytest.mark.parametrize("kind", ["tanh", "lstm", "gru"])
def test_forward_mode_and_vmap_agree_with_the_way_back(kind, ragged):
    module = layer(kind, 2, 3)
    options = {"lengths": [4, 2]} if ragged else {}
    x, along, g = draw(4, 2, 2), draw(4, 2, 2, seed=1), draw(4, 2, 3, seed=2)

    def output(x):
        return module(x, **options)[0]

    _, pushed = torch.func.jvp(output, (x,), (along,))
    pulled = torch.autograd.grad(output(x.requires_grad_()), x, g)[0]
    assert_close((pushed * g).sum(), (pulled * along).sum(), name="⟨Ju, v⟩ = ⟨u, Jᵀv⟩")
    stack = torch.stack((x, 2 * x)).detach()
    assert_close(torch.func.vmap(output)(stack)[1], output(2 * x), rtol=1e-12)


@every_pair
def test_half_of_a_model_may_be_moved_to_double(theirs, ours):
    module = ours(3, 4)
    assert module.double().weight_hh_l0.dtype == F64
    assert module(draw(5, 2, 3))[0].dtype == F64


@every_pair
def test_a_layer_on_the_meta_device_gives_shapes_as_torchs_does(theirs, ours):
    x = torch.zeros(5, 2, 3, device="meta")
    for module in (kind(3, 4, num_layers=2, device="meta") for kind in (theirs, ours)):
        output, _ = module(x)
        output.sum().backward()
        assert output.is_meta and output.shape == (5, 2, 4)
        assert module.weight_hh_l1.grad.shape == module.weight_hh_l1.shape
