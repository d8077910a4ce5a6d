"""torch's fused modules as an engine: equal to torch.nn bit by bit, and our node around them."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.nn.utils.rnn import pack_padded_sequence

import throughtime as tt
from throughtime import kernels
from throughtime.layers import behind
from throughtime.testing import assert_close

F32, F64, BF16 = torch.float32, torch.float64, torch.bfloat16
T, B, I, H = 9, 4, 3, 5
KINDS = {
    "LSTM": lambda **o: nn.LSTM(I, H, **o),
    "projected LSTM": lambda **o: nn.LSTM(I, H, proj_size=2, **o),
    "GRU": lambda **o: nn.GRU(I, H, **o),
    "tanh": lambda **o: nn.RNN(I, H, **o),
    "ReLU": lambda **o: nn.RNN(I, H, nonlinearity="relu", **o),
}


OPTIONS = [{}, {"bias": False}, {"num_layers": 2}, {"num_layers": 2, "bidirectional": True}]


# torch says it of its own layers too.
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


@pytest.fixture(autouse=True)
def asked_for():
    with kernels.use("torch"):
        yield


def make(kind: str, dtype=F64, **options):
    torch.manual_seed(0)
    return KINDS[kind](dtype=dtype, **options)


def states(s):
    return s if isinstance(s, tuple) else (s,)


def step(module, *given, T=T, B=B, **options):
    """Return what a training step gives: output, final states, and every gradient."""
    dtype = next(module.parameters()).dtype
    x = torch.randn(T, B, I, generator=torch.Generator().manual_seed(1)).to(dtype)
    x.requires_grad_()
    module.zero_grad()
    h, s = module(x, *given, **options)
    loss = h.double().pow(2).sum() + sum(p.double().pow(3).sum() for p in states(s))
    loss.backward()
    grads = [p.grad for p in module.parameters() if p.requires_grad]
    return [t.detach().clone() for t in (h, *states(s), x.grad, *grads)]


def ran_on() -> str:
    choice = kernels.last_choice()
    assert choice is not None
    return choice.name


@pytest.mark.parametrize("dtype", [F32, F64, BF16], ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_training_step_is_torchs_bit_by_bit(kind, options, dtype):
    module = make(kind, dtype, **options)
    want = step(module)
    got = step(tt.convert(module))
    assert ran_on() == "torch"
    assert all(map(torch.equal, got, want))


@pytest.mark.parametrize("shape", [(1, 4), (9, 1), (1, 1)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_one_step_and_one_row_too(kind, shape):
    module, sizes = make(kind), dict(zip(("T", "B"), shape, strict=True))
    want = step(module, **sizes)
    assert all(map(torch.equal, step(tt.convert(module), **sizes), want))


def test_an_initial_state_gets_its_gradient_and_only_what_is_read_counts():
    module = make("LSTM")
    found = []
    for layer in (module, tt.convert(make("LSTM"))):
        h_0, c_0 = (torch.randn(1, B, H, dtype=F64).requires_grad_() for _ in range(2))
        with torch.no_grad():
            h_0.fill_(0.3), c_0.fill_(-0.2)
        x = torch.ones(T, B, I, dtype=F64)
        grads = []
        for read in (lambda h, s: h[-1].sum(), lambda h, s: s[1].pow(2).sum()):
            inputs = [h_0, c_0, *layer.parameters()]
            grads += torch.autograd.grad(read(*layer(x, (h_0, c_0))), inputs)
        found.append(grads)
    assert all(map(torch.equal, *found))


def test_frozen_weights_and_inputs_without_a_graph():
    module = make("GRU")
    module.weight_hh_l0.requires_grad_(False)
    want = step(module)
    assert all(map(torch.equal, step(tt.convert(module)), want))
    assert module.weight_hh_l0.grad is None
    with torch.no_grad():
        assert module(torch.zeros(T, B, I, dtype=F64))[0].grad_fn is None
    assert ran_on() == "torch"


def plain_step(module, *given, **options):
    with kernels.use("reference"):
        return step(module, *given, **options)


SCHEDULES = [tt.Truncated(4), tt.Truncated(4, 3), tt.Truncated(3, 1), tt.Checkpointed(3)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("through", SCHEDULES, ids=str)
def test_a_schedule_runs_on_the_module_by_stretches(kind, through):
    layer = tt.set_through(tt.convert(make(kind)), through)
    ragged = {"lengths": torch.tensor([9, 2, 5, 1])}
    resets = {"reset": torch.arange(T * B).view(T, B) % 5 == 3}
    for options in ({}, ragged, resets, ragged | resets):
        got = step(layer, **options)
        assert ran_on() == "torch"
        for a, b in zip(got, plain_step(layer, **options), strict=True):
            assert_close(a, b, rtol=1e-12)


@pytest.mark.parametrize("through", SCHEDULES, ids=str)
def test_a_schedule_from_a_state_and_on_another_engine_than_forward(through):
    layer = tt.set_through(tt.convert(make("LSTM", num_layers=2, bidirectional=True)), through)
    given = tuple(torch.randn(4, B, H, dtype=F64).requires_grad_() for _ in range(2))
    x = torch.randn(T, B, I, dtype=F64)

    def grads(forward, back):
        with kernels.use(forward):
            h, (h_n, c_n) = layer(x, given, lengths=torch.tensor([9, 2, 5, 1]))
        with kernels.use(back):
            loss = h.pow(2).sum() + h_n.pow(3).sum() + c_n.sum()
            return torch.autograd.grad(loss, [*given, *layer.parameters()])

    want = grads("reference", "reference")
    for both in (("torch", "torch"), ("torch", "reference"), ("reference", "torch")):
        for a, b in zip(grads(*both), want, strict=True):
            assert_close(a, b, rtol=1e-12)


def test_a_schedule_still_gives_the_rows_shares():
    layer = tt.set_through(tt.convert(make("GRU")), tt.Checkpointed(3))
    x = torch.randn(T, B, I, dtype=F64)
    with tt.per_sample_grads(layer):
        layer(x)[0].pow(2).sum().backward()
    want = torch.autograd.grad(layer(x)[0].pow(2).sum(), layer.weight_hh_l0)[0]
    assert_close(layer.weight_hh_l0.grad_sample.sum(0), want, rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_lengths_resets_and_packed_rows_keep_theirs(kind):
    layer = tt.convert(make(kind))
    ragged = {"lengths": torch.tensor([9, 2, 5, 1])}
    resets = {"reset": torch.arange(T * B).view(T, B) % 5 == 3}
    for options in (ragged, resets, ragged | resets):
        got = step(layer, **options)
        assert ran_on() == "torch"
        for a, b in zip(got, plain_step(layer, **options), strict=True):
            assert_close(a, b, rtol=1e-12)
    packed = pack_padded_sequence(torch.randn(T, B, I, dtype=F64), [9, 5, 2, 1])
    assert layer(packed)[0].data.shape[0] == 17
    assert layer(torch.zeros(T, 0, I, dtype=F64))[0].shape[1] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_trace_per_sample_gradients_and_second_derivatives_keep_theirs(kind):
    layer, x = tt.convert(make(kind)), torch.randn(T, B, I, dtype=F64)
    with tt.trace(layer) as trace:
        losses = layer(x)[0].pow(2).sum((1, 2))
    flow = trace.flow(losses)["l0"]
    losses.sum().backward()
    assert_close(flow.weight_grad("weight_hh"), layer.weight_hh_l0.grad, rtol=1e-12)
    layer.zero_grad()
    with tt.per_sample_grads(layer):
        layer(x)[0].pow(2).sum().backward()
    assert_close(layer.weight_hh_l0.grad_sample.sum(0), flow.weight_grad("weight_hh"), rtol=1e-12)
    weights = list(layer.parameters())

    def second():
        grads = torch.autograd.grad(layer(x)[0].pow(2).sum(), weights, create_graph=True)
        return torch.autograd.grad(sum(g.pow(2).sum() for g in grads), weights)

    got = second()
    with kernels.use("reference"):
        for a, b in zip(got, second(), strict=True):
            assert_close(a, b, rtol=1e-12)


def test_many_losses_at_once_are_swept_by_the_reference():
    layer, x = tt.convert(make("LSTM")), torch.randn(T, B, I, dtype=F64)
    h = layer(x)[0]
    each = torch.eye(T, dtype=F64)
    losses = h.pow(2).sum((1, 2))
    got = torch.autograd.grad(losses, layer.weight_hh_l0, each, is_grads_batched=True)[0]
    for t in range(T):
        want = torch.autograd.grad(layer(x)[0].pow(2).sum((1, 2))[t], layer.weight_hh_l0)[0]
        assert_close(got[t], want, rtol=1e-11)


def test_a_graph_may_be_gone_through_twice_and_elsewhere():
    layer, x = tt.convert(make("GRU")), torch.randn(T, B, I, dtype=F64)
    loss = layer(x)[0].pow(2).sum()
    once = torch.autograd.grad(loss, layer.weight_hh_l0, retain_graph=True)[0]
    for name in ("auto", "reference", "torch"):
        with kernels.use(name):
            again = torch.autograd.grad(loss, layer.weight_hh_l0, retain_graph=True)[0]
        assert torch.equal(once, again)
    with save_on_cpu():
        loss = layer(x)[0].pow(2).sum()
    assert_close(torch.autograd.grad(loss, layer.weight_hh_l0)[0], once, rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_writing_into_the_output_is_noticed(kind):
    layer, x = tt.convert(make(kind)), torch.randn(T, B, I, dtype=F64)
    want = torch.autograd.grad(layer(x)[0].mul(2).pow(2).sum(), layer.weight_hh_l0)[0]
    got = torch.autograd.grad(layer(x)[0].mul_(2).pow(2).sum(), layer.weight_hh_l0)[0]
    assert_close(got, want, rtol=1e-12)


def test_a_weight_changed_before_the_backward_pass_is_an_error_as_in_torch():
    layer, x = tt.convert(make("LSTM")), torch.randn(T, B, I, dtype=F64)
    loss = layer(x)[0].pow(2).sum()
    with torch.no_grad():
        layer.weight_hh_l0.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


class Box:
    """What stands for a tensor that a graph keeps, so that its end can be seen."""

    def __init__(self, tensor) -> None:
        self.tensor = tensor


@pytest.mark.parametrize("call", [{}, {"lengths": [9, 2, 5, 1]}], ids=str)
@pytest.mark.parametrize("options", [{}, {"num_layers": 2}], ids=str)
def test_torchs_graph_is_freed_as_it_is_gone_through_unless_it_is_retained(options, call):
    layer, x = tt.convert(make("GRU", **options)), torch.randn(T, B, I, dtype=F64)
    boxes = []

    def pack(tensor):
        box = Box(tensor)
        boxes.append(weakref.ref(box))
        return box

    with saved_tensors_hooks(pack, lambda box: box.tensor):
        loss = layer(x, **call)[0].sum()
    loss.backward(retain_graph=True)
    assert len(boxes) > T and all(box() is not None for box in boxes)
    loss.backward()
    assert not any(box() is not None for box in boxes)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_nothing_is_held_once_the_loss_is_gone():
    layer, x = tt.convert(make("LSTM")), torch.randn(T, B, I, dtype=F64).requires_grad_()
    boxes = []

    def pack(tensor):
        box = Box(tensor.detach())
        boxes.append(weakref.ref(box))
        return box

    with saved_tensors_hooks(pack, lambda box: box.tensor):
        h = layer(x)[0]
    assert len(boxes) > T and any(box() is not None for box in boxes)
    del h
    gc.collect()
    assert not any(box() is not None for box in boxes)


def test_what_torch_has_no_module_for_says_so():
    x = torch.zeros(T, B, I)
    for layer, why in (
        (tt.RNN(I, H, nonlinearity="sigmoid"), "no fused module for Elman with nonlinearity"),
        (tt.Recurrent(tt.cells.MinGRU(I, H)), "no fused module for MinGRU"),
    ):
        with pytest.raises(tt.errors.UnsupportedError, match=why):
            layer(x)
    with kernels.use("auto"):
        assert kernels.choice(tt.cells.LSTM(I, H)).name != "torch"


def test_a_gradient_that_is_cut_is_noticed(monkeypatch):
    """The comparison must be able to fail: what arrives at the final state is dropped."""
    whole = behind._Behind.backward

    def cut(ctx, g_h, *g_finals):
        return whole(ctx, g_h, *(None for _ in g_finals))

    monkeypatch.setattr(behind._Behind, "backward", staticmethod(cut))
    with pytest.raises(AssertionError):
        test_a_training_step_is_torchs_bit_by_bit("GRU", {}, F64)
