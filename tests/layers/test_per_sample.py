"""Per-sample gradients (eq. 5) against vmap of grad, and against one row at a time."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import pack_padded_sequence

import throughtime as tt
from throughtime.kernels import by_row
from throughtime.testing import assert_close

pytestmark = pytest.mark.usefixtures("float64")

F64 = torch.float64
T, B, I, H = 7, 4, 3, 5


def draw(*shape: int, seed: int = 0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.f, self.n = nn.Linear(I + H, H, dtype=F64), nn.Linear(I + H, H, dtype=F64)

    def forward(self, x, s):
        f = torch.sigmoid(self.f(torch.cat((x, s), 1)))
        return s + f * (torch.tanh(self.n(torch.cat((x, f * s), 1))) - s)


class Clamped(torch.autograd.Function):
    """A function that `torch.func` cannot see through."""

    @staticmethod
    def forward(ctx, a):
        ctx.save_for_backward(a)
        return a.clamp(-1, 1)

    @staticmethod
    def backward(ctx, g):
        (a,) = ctx.saved_tensors
        return g * (a.abs() < 1)


def clamped(x, s, W, U):
    return Clamped.apply(s @ W.T + x @ U.T)


def function(step, **weights):
    return tt.Recurrent(tt.cells.Function(step, I, H, weights=weights))


LAYERS = {
    "RNN": lambda: tt.RNN(I, H, nonlinearity="relu"),
    "RNN without bias": lambda: tt.RNN(I, H, bias=False),
    "LSTM": lambda: tt.LSTM(I, H),
    "GRU": lambda: tt.GRU(I, H),
    "LSTM of 2 layers, both ways": lambda: tt.LSTM(I, H, 2, bidirectional=True),
    "GRU of 2 layers, both ways": lambda: tt.GRU(I, H, 2, bidirectional=True),
    "projected LSTM": lambda: tt.LSTM(I, H, proj_size=2),
    "leaky": lambda: tt.Recurrent(tt.cells.Leaky(I, H)),
    "refine-gate LSTM": lambda: tt.Recurrent(tt.cells.RefineLSTM(I, H)),
    "layer-norm LSTM": lambda: tt.Recurrent(tt.cells.LayerNormLSTM(I, H)),
    "peephole LSTM": lambda: tt.Recurrent(tt.cells.PeepholeLSTM(I, H)),
    "minGRU": lambda: tt.Recurrent(tt.cells.MinGRU(I, H)),
    "a module as step": lambda: function(Gated()),
    "a step unknown to vmap": lambda: function(clamped, W=draw(H, H) / 3, U=draw(H, I)),
}
RAGGED = {
    "lengths": torch.tensor([7, 2, 5, 1]),
    "reset": torch.arange(T * B).view(T, B) % 5 == 3,
}


def make(name: str) -> nn.Module:
    return LAYERS[name]().to(F64)


def loss(module, x, **options):
    h = module(x, **options)[0]
    own = torch.arange(T * h.shape[-1], dtype=F64).cos().view(T, 1, -1)  # vmap allows no drawing
    return (h * own).sum() + h.pow(2).sum()


def row(options, b):
    return {
        name: value[:, b : b + 1] if name == "reset" else value[b : b + 1]
        for name, value in options.items()
    }


@pytest.mark.parametrize("options", [{}, RAGGED], ids=["whole", "ragged, resets"])
@pytest.mark.parametrize("name", LAYERS)
def test_each_rows_share_is_its_gradient_alone_and_they_sum_to_grad(name, options):
    module, x = make(name), draw(T, B, I)
    with tt.per_sample_grads(module) as served:
        loss(module, x, **options).backward()
    assert served == dict(module.named_parameters())
    shares = {name: p.grad_sample for name, p in served.items()}
    for weight, p in served.items():
        assert shares[weight].shape == (B, *p.shape)
        assert_close(shares[weight].sum(0), p.grad, rtol=1e-12, name=weight)
    for b in range(B):
        module.zero_grad()
        loss(module, x[:, b : b + 1], **row(options, b)).backward()
        for weight, p in served.items():
            assert_close(shares[weight][b], p.grad, rtol=1e-12, name=f"{weight} of row {b}")


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "a step unknown to vmap"])
def test_shares_are_those_of_vmap_of_grad(name):
    module, x = make(name), draw(T, B, I)
    weights = {n: p.detach() for n, p in module.named_parameters()}

    def one(weights, x):
        call = lambda x: functional_call(module, weights, (x,))  # noqa: E731
        return loss(call, x.unsqueeze(1))

    want = vmap(grad(one), in_dims=(None, 1))(weights, x)
    with tt.per_sample_grads(module) as served:
        loss(module, x).backward()
    for weight, p in served.items():
        assert_close(p.grad_sample, want[weight], rtol=1e-12, name=weight)


@pytest.mark.parametrize(
    "schedule", [tt.Checkpointed(2), tt.Truncated(3), tt.Truncated(4, 1)], ids=str
)
@pytest.mark.parametrize("name", ["LSTM", "minGRU", "a module as step"])
def test_under_a_schedule_they_are_the_shares_of_its_own_gradient(name, schedule):
    module, x = tt.set_through(make(name), schedule), draw(T, B, I)
    with tt.per_sample_grads(module) as served:
        loss(module, x, **RAGGED).backward()
    shares = {name: p.grad_sample for name, p in served.items()}
    for b in range(B):
        module.zero_grad()
        loss(module, x[:, b : b + 1], **row(RAGGED, b)).backward()
        for weight, p in served.items():
            assert_close(shares[weight][b], p.grad, rtol=1e-12, name=weight)


def test_the_usual_gradients_are_what_they_are_without():
    module, x = make("LSTM of 2 layers, both ways"), draw(T, B, I).requires_grad_()
    want = torch.autograd.grad(loss(module, x), [x, *module.parameters()])
    with tt.per_sample_grads(module):
        got = torch.autograd.grad(loss(module, x), [x, *module.parameters()])
    for a, b in zip(got, want, strict=True):
        assert_close(a, b, rtol=1e-13)


class Model(nn.Module):
    """A layer called twice, another that shares a weight with it, and what is not recurrent."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(I, I, dtype=F64)
        self.first, self.second = tt.GRU(I, I, dtype=F64), tt.GRU(I, I, dtype=F64)
        self.second.weight_hh_l0 = self.first.weight_hh_l0
        self.readout = nn.Linear(I, 1, dtype=F64)

    def forward(self, x):
        once, _ = self.first(self.embed(x))
        return self.readout(self.second(self.first(once)[0])[0]), None


def test_tied_weights_and_a_layer_called_twice_add_up_and_the_rest_is_left_alone():
    model, x = Model(), draw(T, B, I)
    with tt.per_sample_grads(model) as served:
        loss(model, x).backward()
    assert "embed.weight" not in served and not hasattr(model.embed.weight, "grad_sample")
    assert len(served) == 7
    shares = {name: p.grad_sample for name, p in served.items()}
    for b in range(B):
        model.zero_grad()
        loss(model, x[:, b : b + 1]).backward()
        for name, p in served.items():
            assert_close(shares[name][b], p.grad, rtol=1e-12, name=name)


def test_of_a_mean_over_rows_each_share_is_the_rows_own_gradient():
    module, x = make("GRU"), draw(T, B, I)
    with tt.per_sample_grads(module) as served:
        loss(module, x).backward()
    want = {name: p.grad_sample for name, p in served.items()}
    with tt.per_sample_grads(module, loss_reduction="mean"):
        (loss(module, x) / B).backward()
    for name, p in served.items():
        assert_close(p.grad_sample, want[name], rtol=1e-12, name=name)


def test_frozen_weights_have_no_share():
    module = make("LSTM")
    module.weight_ih_l0.requires_grad_(False)
    with tt.per_sample_grads(module):
        loss(module, draw(T, B, I)).backward()
    assert not hasattr(module.weight_ih_l0, "grad_sample")
    assert_close(module.weight_hh_l0.grad_sample.sum(0), module.weight_hh_l0.grad)


def test_a_packed_batch_and_one_without_a_batch_axis_keep_their_rows():
    module, x, lengths = make("GRU"), draw(T, B, I), torch.tensor([2, 7, 1, 5])
    found = []
    for packed in (True, False):
        with tt.per_sample_grads(module):
            if packed:
                given = pack_padded_sequence(x, lengths, enforce_sorted=False)
                module(given)[0].data.pow(2).sum().backward()
            else:
                module(x, lengths=lengths)[0].pow(2).sum().backward()
        found.append(module.weight_hh_l0.grad_sample)
    assert_close(*found, rtol=1e-13)
    with tt.per_sample_grads(module):
        module(x[:, 0])[0].sum().backward()
    assert module.weight_hh_l0.grad_sample.shape == (1, 3 * H, H)


def test_backward_passes_in_one_block_add_up_and_a_new_block_begins_anew():
    module, x = make("RNN"), draw(T, B, I)
    with tt.per_sample_grads(module):
        loss(module, x).backward()
    once = module.weight_hh_l0.grad_sample
    with tt.per_sample_grads(module):
        loss(module, x).backward()
        loss(module, x).backward()
    assert_close(module.weight_hh_l0.grad_sample, 2 * once)
    loss(module, x).backward()
    assert_close(module.weight_hh_l0.grad_sample, 2 * once)
    assert not by_row.COLLECTORS


def test_two_models_at_once_are_kept_apart():
    one, other, x = make("RNN"), make("GRU"), draw(T, B, I)
    with tt.per_sample_grads(one):
        loss(other, x).backward()
        with tt.per_sample_grads(other):
            loss(one, x).backward()
    assert hasattr(one.weight_hh_l0, "grad_sample")
    assert not hasattr(other.weight_hh_l0, "grad_sample")


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph")
def test_what_cannot_be_served_says_so():
    errors = tt.errors
    with pytest.raises(errors.InputTypeError, match="got list"), tt.per_sample_grads([]):
        pass
    other = tt.per_sample_grads(tt.LSTM(I, H), loss_reduction="max")
    with pytest.raises(errors.InputValueError, match="got 'max'"), other:
        pass
    bare = tt.per_sample_grads(nn.LSTM(I, H))
    with pytest.raises(errors.LayerNotFoundError, match=r"tt\.convert"), bare:
        pass
    module, x = make("LSTM"), draw(T, B, I)
    other = pytest.raises(errors.ShapeError, match="batches of 4 and of 3 rows")
    with other, tt.per_sample_grads(module):
        loss(module, x).backward()
        loss(module, x[:, :3]).backward()
    assert not by_row.COLLECTORS
    second = pytest.raises(errors.UnsupportedError, match="create_graph=True")
    with second, tt.per_sample_grads(module):
        loss(module, x).backward(create_graph=True, inputs=list(module.parameters()))
    for p in module.parameters():
        p.grad = None
    step = tt.cells.Function(
        lambda x, s, W: torch.tanh(s @ W + (x - x.mean(0))[:, :1]), I, H, weights={"W": draw(H, H)}
    )
    depends = pytest.raises(errors.UnsupportedError, match="no gradient of a row by itself")
    with depends, tt.per_sample_grads(tt.Recurrent(step)):
        loss(tt.Recurrent(step), x).backward()
    parametrizations.weight_norm(module, "weight_hh_l0")
    normed = pytest.raises(errors.UnsupportedError, match="weight_hh_l0 is computed from other")
    with normed, tt.per_sample_grads(module):
        pass


@pytest.mark.parametrize("name", ["LSTM", "GRU", "projected LSTM", "minGRU", "a module as step"])
def test_row_by_row_gives_the_same_as_vmap(monkeypatch, name):
    def no_vmap(*_, **__):
        raise RuntimeError("there is none")

    monkeypatch.setattr(torch.func, "vmap", no_vmap)
    test_each_rows_share_is_its_gradient_alone_and_they_sum_to_grad(name, RAGGED)


def test_a_row_too_many_in_a_share_is_noticed(monkeypatch):
    """The comparison must be able to fail: a mutant gives a row its neighbour's share."""
    whole = by_row.param_grads_by_row

    def moved(*arguments):
        return {name: g.roll(1, 0) for name, g in whole(*arguments).items()}

    monkeypatch.setattr(by_row, "param_grads_by_row", moved)
    with pytest.raises(tt.errors.CheckError):
        test_each_rows_share_is_its_gradient_alone_and_they_sum_to_grad("GRU", {})


@pytest.mark.parametrize("nesting", ["same", "part", "after"])
def test_blocks_within_each_other_give_each_share_once(nesting):
    model = torch.nn.ModuleDict({"a": tt.GRU(3, 4), "b": tt.RNN(4, 4)})
    inner = model["a"] if nesting == "part" else model

    def backward():
        hidden = model["a"](torch.ones(5, 2, 3))[0]
        model["b"](hidden)[0].pow(2).sum().backward()

    with tt.per_sample_grads(model):
        if nesting == "after":
            backward()
        with tt.per_sample_grads(inner):
            backward()
    for parameter in model.parameters():
        assert_close(parameter.grad_sample.sum(0), parameter.grad, rtol=1e-5)
