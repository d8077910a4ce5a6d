"""Several layers and directions in one call of torch's module: its bits, and our node's meaning."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import throughtime as tt
from throughtime import kernels
from throughtime.kernels.torch import packing
from throughtime.layers import directions, stacked
from throughtime.testing import assert_close

F64 = torch.float64
T, B, I, H = 7, 4, 3, 5
KINDS = ("LSTM", "GRU", "RNN")
OPTIONS = [{"num_layers": 2}, {"bidirectional": True}, {"num_layers": 2, "bidirectional": True}]


@pytest.fixture
def calls(monkeypatch):
    """Return a list that gets an entry for every call of torch's for a whole module."""
    found = []
    real = stacked.Whole.call

    def call(self, module, *given):
        found.append(module)
        return real(self, module, *given)

    monkeypatch.setattr(stacked.Whole, "call", call)
    with kernels.use("torch"):
        yield found


def make(kind: str, **options) -> nn.Module:
    torch.manual_seed(0)
    return getattr(tt, kind)(I, H, dtype=F64, **options)


def data(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(1))


def given_state(layer, kind):
    runs = layer.num_layers * (2 if layer.bidirectional else 1)
    parts = [data(runs, B, H).mul(k + 1).requires_grad_() for k in range(1 + (kind == "LSTM"))]
    return parts, tuple(parts) if kind == "LSTM" else parts[0]


def step(layer, kind, call, **more):
    """Return output, states and gradients of x, the initial state and every weight."""
    parts, hx = given_state(layer, kind)
    x = data(T, B, I).requires_grad_()
    options = {"lengths": [7, 1, 4, 4]} if "lengths" in call else {}
    if "reset" in call:
        options["reset"] = torch.arange(T * B).view(T, B) % 5 == 3
    h, s = layer(x, hx if "hx" in call else None, **options)
    states = s if isinstance(s, tuple) else (s,)
    loss = h.pow(2).sum() + sum(p.pow(3).sum() for p in states)
    inputs = [x, *(parts if "hx" in call else []), *layer.parameters()]
    grads = torch.autograd.grad(loss, inputs, **more)
    return [h.detach(), *(p.detach() for p in states), *grads]


@pytest.mark.parametrize("call", ["plain", "hx", "hx, lengths"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_one_call_gives_what_the_layers_give_one_by_one(kind, options, call, calls):
    layer = make(kind, **options)
    got = step(layer, kind, call)
    assert len(calls) == 1 and kernels.last_choice().name == "torch"
    with kernels.use("reference"):
        want = step(layer, kind, call)
    assert len(calls) == 1
    for a, b in zip(got, want, strict=True):
        assert_close(a, b, rtol=1e-12)


@pytest.mark.parametrize("call", ["reset", "hx, reset", "hx, lengths, reset"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_resets_too_where_the_reverse_direction_ends_with_a_rows_first_episode(
    kind, options, call, calls
):
    layer = make(kind, **options)
    got = step(layer, kind, call)
    assert len(calls) == 1
    with kernels.use("reference"):
        want = step(layer, kind, call)
    for a, b in zip(got, want, strict=True):
        assert_close(a, b, rtol=1e-12)


def test_rows_that_are_reset_at_once_and_rows_that_take_no_step_in_both_directions(calls):
    """In reverse such a reset cuts nothing, and the state that was given counts."""
    layer, (h_0,) = make("GRU", bidirectional=True), [data(2, B, H)]
    reset = torch.zeros(T, B, dtype=torch.bool)
    reset[0, :3] = reset[3, 1] = True
    x, active = data(T, B, I), torch.arange(T)[:, None] < torch.tensor([7, 5, 1, 0])

    def question():
        masks = active, reset & active
        return stacked.all_at_once(layer, x, (h_0,), None, masks) or directions.one_by_one(
            layer, masks, x, (h_0,), None
        )

    h, (final,) = question()
    assert len(calls) == 1
    with kernels.use("reference"):
        want, (end,) = question()
    assert len(calls) == 1
    assert_close(h, want, rtol=1e-12)
    assert_close(final, end, rtol=1e-12)
    assert torch.equal(final[:, 3], h_0[:, 3])


@pytest.mark.parametrize("kind", KINDS)
def test_what_torchs_graph_cannot_do_runs_layer_by_layer(kind, calls):
    layer = make(kind, num_layers=2, bidirectional=True)
    weights, x = list(layer.parameters()), data(T, B, I).requires_grad_()

    def losses():
        return layer(x)[0].pow(2).sum((1, 2))

    def second():
        grads = torch.autograd.grad(losses().sum(), [x, *weights], create_graph=True)
        return torch.autograd.grad(sum(g.pow(2).sum() for g in grads), [x, *weights])

    def many():
        each = torch.eye(T, dtype=F64)
        return torch.autograd.grad(losses(), weights, each, is_grads_batched=True)

    def in_place():
        h = layer(x)[0]
        h.mul_(2)
        return torch.autograd.grad(h.pow(2).sum(), [x, *weights])

    for question in (second, many, in_place):
        got = question()
        with kernels.use("reference"):
            want = question()
        for a, b in zip(got, want, strict=True):
            assert_close(a, b, rtol=1e-11)
    assert len(calls) == 3


def test_a_trace_the_rows_shares_dropout_and_schedules_see_every_layer(calls):
    layer, x = make("GRU", num_layers=2), data(T, B, I)
    with tt.trace(layer) as trace:
        losses = layer(x)[0].pow(2).sum((1, 2))
    assert set(trace.flow(losses)) == {"l0", "l1"}
    with tt.per_sample_grads(layer):
        layer(x)[0].pow(2).sum().backward()
    assert_close(layer.weight_hh_l0.grad_sample.sum(0), layer.weight_hh_l0.grad, rtol=1e-12)
    make("GRU", num_layers=2, dropout=0.5)(x)
    tt.set_through(layer, tt.Truncated(3))(x)
    assert not calls


def test_a_backward_pass_twice_and_one_that_asks_for_little(calls):
    layer, x = make("LSTM", num_layers=2), data(T, B, I)
    layer.weight_hh_l0.requires_grad_(False)
    h, (_, c_n) = layer(x)
    first = torch.autograd.grad(c_n.sum(), layer.weight_hh_l1, retain_graph=True)
    again = torch.autograd.grad(c_n.sum(), layer.weight_hh_l1, retain_graph=True)
    assert torch.equal(*first, *again)
    h.sum().backward()
    assert layer.weight_hh_l0.grad is None and layer.weight_ih_l0.grad is not None
    with torch.no_grad():
        assert layer(x)[0].grad_fn is None
    h = layer(x)[0]
    with torch.no_grad():
        layer.weight_hh_l1.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        h.sum().backward()


@pytest.mark.parametrize("call", [{}, {"lengths": [7, 1, 4, 4]}], ids=str)
def test_nothing_enters_torchs_graph_where_layers_run_one_by_one(call, calls, monkeypatch):
    """Or 0 times what was written there: NaN."""
    seen, real = [], packing._Placed.backward

    def backward(ctx, g):
        seen.append(g)
        return real(ctx, g)

    monkeypatch.setattr(packing._Placed, "backward", staticmethod(backward))
    layer = make("LSTM", bidirectional=True)
    h, (h_n, _) = layer(data(T, B, I), **call)
    want = torch.autograd.grad(h_n.sum(), layer.weight_hh_l0, retain_graph=True)
    seen.clear()
    for _ in range(2):
        got = torch.autograd.grad(h_n.sum(), layer.weight_hh_l0, retain_graph=True)
        assert_close(*got, *want, rtol=1e-12)
        with torch.no_grad():
            h.fill_(torch.nan)
    seen.clear()
    torch.autograd.grad(h_n.sum(), layer.weight_hh_l0, create_graph=True)
    assert all(g is None for g in seen) and bool(seen) == bool(call)
