"""Loops over time of somebody's own: every number against autograd, term by term."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import throughtime as tt
from throughtime.flow.relay import Relay
from throughtime.testing import assert_close

from . import loops
from .loops import B, H, I, T, oracle, per_step

JOINED = [loops.Loop, loops.GRULoop, loops.RNNLoop, loops.Masked]
RELAYED = [
    loops.Decoder, loops.GRUDecoder, loops.Damped, loops.Remembering, loops.Detached,
    loops.Marked, loops.Ring,
]  # fmt: skip
ALL = [*JOINED, *RELAYED, loops.Stacked, loops.Spiking]


@pytest.fixture(autouse=True)
def doubles():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def traced(model: nn.Module, x: torch.Tensor, losses=per_step, **how) -> tt.LayerFlow:
    steps = ["cell"] if isinstance(model, loops.Spiking) else []
    with tt.trace(model, steps=steps) as trace:
        found = losses(model(x))
    return trace.flow(found, **how)["cell"]


def relative(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Compare term by term, each relative to its own size; exact zeros must be exact."""
    assert found.shape == expected.shape
    for one, other in zip(found.flatten(0, -2), expected.flatten(0, -2), strict=True):
        assert_close(one, other, rtol=1e-9)


def known(layer: tt.LayerFlow) -> int:
    """Return the first state that is known: of marks, that after the first step."""
    return int(bool(layer.norms[:, 0].isnan().all()))


@pytest.mark.parametrize("kind", ALL)
def test_every_pair_is_what_autograd_says(kind):
    model, x = kind(), torch.randn(T, B, I)
    expected, _ = oracle(model, x)
    layer = traced(model, x)
    first = known(layer)
    relative(layer.norms[:, first:, :, None], expected.norm(dim=-1)[:, first:, :, None])
    for v in (0, T // 2, T - 1):
        relative(layer.adjoint(v)[first:], expected[v, first:])
    relative(layer.adjoint()[first:], expected.sum(0)[first:])


@pytest.mark.parametrize("kind", JOINED)
def test_what_continues_directly_is_swept_in_one_piece(kind):
    layer = traced(kind(), torch.randn(T, B, I))
    assert type(layer) is tt.LayerFlow and layer.T == T


@pytest.mark.parametrize("kind", RELAYED)
def test_what_does_not_is_relayed(kind):
    layer = traced(kind(), torch.randn(T, B, I))
    assert type(layer) is not tt.LayerFlow and layer.T == T


@pytest.mark.parametrize("kind", [k for k in ALL if k is not loops.Marked])
def test_the_terms_of_a_weight_sum_to_its_gradient(kind):
    model, x = kind(), torch.randn(T, B, I)
    layer = traced(model, x)
    per_step(model(x)).sum().backward()
    names = layer.weight_names
    # Loss by loss: what one loss sends back is kept for the next question about it.
    terms = [
        {name: [layer.weight_grad(name, loss=v, step=step) for step in (None, 3)] for name in names}
        for v in range(T)
    ]
    for name in names:
        grad = model.cell.get_parameter(name).grad
        assert_close(layer.weight_grad(name), grad, rtol=1e-9)
        by_loss, of_step_3 = (sum(each[name][i] for each in terms) for i in (0, 1))
        by_step = sum(layer.weight_grad(name, step=k) for k in range(1, T + 1))
        assert_close(by_loss, grad, rtol=1e-9)
        assert_close(by_step, grad, rtol=1e-9)
        assert_close(of_step_3, layer.weight_grad(name, step=3), rtol=1e-9)


def test_a_loss_is_sent_back_once_for_all_questions_about_it(monkeypatch):
    sent, send = [], Relay.send
    monkeypatch.setattr(Relay, "send", lambda *a, **k: sent.append(k) or send(*a, **k))
    layer = traced(loops.Decoder(), torch.randn(T, B, I))
    del sent[:]
    for v in (3, 5):
        layer.adjoint(v)
        for step in (1, 2):
            layer.weight_grad("weight_hh", loss=v, step=step)
    assert [each["which"].tolist() for each in sent] == [[3], [5]]


@pytest.mark.parametrize("kind", ALL)
def test_a_scalar_is_split_by_the_step_at_which_it_enters(kind):
    model, x = kind(), torch.randn(T, B, I)
    expected, _ = oracle(model, x)
    layer = traced(model, x, lambda said: per_step(said).sum())
    first = known(layer)
    assert layer.split == "step" and layer.norms.shape == (T, T + 1, B)
    if kind is loops.Spiking:
        first = 1  # what reads the output of step 1 alone enters before any step
    total = sum(layer.adjoint(v)[first:] for v in range(T))
    relative(total, expected.sum(0)[first:])
    relative(layer.adjoint()[first:], expected.sum(0)[first:])


@pytest.mark.parametrize(
    "kind", [loops.Loop, loops.Decoder, loops.Damped, loops.Marked, loops.Spiking]
)
def test_jacobians_multiply_along_the_graph(kind):
    model, x = kind(), torch.randn(T, B, I)
    layer = traced(model, x)
    product = layer.jacobian_product(6, 2)
    steps = [layer.jacobian(k) for k in (6, 5, 4, 3)]
    relative(product, steps[0] @ steps[1] @ steps[2] @ steps[3])
    # ∂E_v/∂s_k of a loss that reads s_T alone, from the Jacobians.
    expected, _ = oracle(model, x, lambda said: said[-1].sum()[None])
    last = traced(model, x, lambda said: said[-1].sum()[None])
    if kind is not loops.Spiking:  # its output is no state, so the loss does not read s_T
        at = expected[0]
        relative(torch.einsum("bi,bij->bj", at[T], last.jacobian_product(T, 3)), at[3])
    exponents = layer.lyapunov()
    logs = sum(torch.linalg.slogdet(layer.jacobian(k))[1] for k in range(known(layer) + 1, T + 1))
    assert_close(exponents.sum(1), logs / (T - known(layer)), rtol=1e-7)


def test_jacobians_equal_those_of_the_fused_layer():
    model, x = loops.Loop(), torch.randn(T, B, I)
    fused = nn.LSTM(I, H)
    for name, weight in model.cell.named_parameters():
        getattr(fused, f"{name}_l0").data.copy_(weight.data)
    with tt.trace(fused) as trace:
        losses = fused(x, tuple(s[None] for s in model.begin()))[0].pow(2).sum((1, 2))
    whole = trace.flow(losses)["l0"]
    layer = traced(model, x)
    relative(layer.jacobian_product(7, 1), whole.jacobian_product(7, 1))
    assert_close(layer.lyapunov(3), whole.lyapunov(3), rtol=1e-9)


def test_a_detached_state_is_one_run_with_exact_zeros_beyond_the_cut():
    layer = traced(loops.Detached(), torch.randn(T, B, I))
    assert layer.cuts == (4, 7)
    assert not layer.norms[T - 1, :7].any() and layer.norms[T - 1, 7:].all()


def test_a_marked_state_has_no_beginning_and_says_so():
    layer = traced(loops.Marked(), torch.randn(T, B, I))
    assert layer.norms[:, 0].isnan().all() and layer.kind == "mark"
    with pytest.raises(tt.errors.UnsupportedError, match="before step 1"):
        layer.jacobian(1)
    with pytest.raises(tt.errors.UnsupportedError, match="tight=True"):
        layer.bound(5, 2)
    assert bool((layer.bound(5, 2, tight=True) > 0).all())
    with pytest.raises(tt.errors.InputValueError, match="no module"):
        layer.weight_grad("W")


def test_marks_equal_a_function_cell():
    model, x = loops.Marked(), torch.randn(T, B, I)
    layer = traced(model, x)
    cell = tt.cells.Function(
        lambda x, h, W, U: torch.tanh(x @ U.T + h @ W.T), I, H,
        weights={"W": model.W.detach(), "U": model.U.detach()},
    )  # fmt: skip
    whole = tt.Recurrent(cell)
    with tt.trace(whole) as trace:
        losses = per_step(model.out(whole(x)[0]))
    other = trace.flow(losses)["l0"]
    relative(layer.norms[:, 1:], other.norms[:, 1:])
    relative(layer.jacobian_product(6, 2), other.jacobian_product(6, 2))
    assert layer.horizon(0.1) == int(other.norms.shape[1] and layer.horizon(0.1))


def test_outside_a_trace_marks_are_nothing():
    h, c = torch.randn(2, 3), torch.randn(2, 3)
    assert tt.mark("s", h) is h and tt.mark("s", h, c) == (h, c)
    assert tt.mark_steps("x", h) is h


@pytest.mark.parametrize("window, every", [(3, None), (None, 2)])
def test_windows_and_every(window, every):
    model, x = loops.Decoder(), torch.randn(T, B, I)
    whole, part = traced(model, x), traced(model, x, window=window, every=every)
    there = ~part.norms.isnan()
    assert_close(part.norms[there], whole.norms[part.loss_index][there], rtol=1e-9)
    assert bool(there.all()) == (window is None)


def test_the_graph_must_still_be_there():
    model, x = loops.Decoder(), torch.randn(T, B, I)
    with tt.trace(model) as trace:
        losses = per_step(model(x))
    flow = trace.flow(losses)["cell"]
    losses.sum().backward()
    assert flow.total_norms.shape == (T + 1, B)
    with pytest.raises(tt.errors.GraphError, match="backward"):
        flow.adjoint(3)
    assert flow.weight_grad("weight_hh").shape == (4 * H, H)
    assert_close(flow.weight_grad("weight_hh"), model.cell.weight_hh.grad, rtol=1e-9)
