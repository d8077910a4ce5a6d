"""Steps whose rows, values or calls are not independent: each result is right, or refused.

The oracle is a loop of autograd written by hand. A result may be right or an error of this
package; never another number.
"""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import Tensor

import throughtime as tt
from throughtime.errors import InputValueError, ThroughTimeError, UnsupportedError
from throughtime.testing import assert_close

F64 = torch.float64
H = 4


def grows(x, s, W):
    return s + 0.3 * torch.sigmoid(x) + 0.01 * s @ W.T


def branch_on_max(x, s, W):
    n = grows(x, s, W)
    return n * 0.5 if n.max() > 2 else n


def branch_on_item(x, s, W):
    n = grows(x, s, W)
    return n * 0.5 if n.mean().item() > 1.5 else n


def branch_by_numpy(x, s, W):
    n = grows(x, s, W)
    return n * 0.5 if float(n.detach().numpy().max()) > 2 else n


def branch_that_detaches(x, s, W):
    n = grows(x, s, W)
    return torch.tanh(n.detach() + x) if n.max() > 2 else n


def by_length(x, s, W):
    return torch.tanh(x + (s / len(s)) @ W.T)


def by_norm(x, s, W):
    return torch.tanh(x + (s / s.norm().clamp(min=1)) @ W.T)


def by_variance(x, s, W):
    return torch.tanh(x + (s / (1 + s.var(0, unbiased=False))) @ W.T)


def by_sum(x, s, W):
    return torch.tanh(x + 0.1 * (s * s.sum(0)) @ W.T)


def less_the_mean(x, s, W):
    return torch.tanh(x + (s - s.mean(0)) @ W.T + s)


def softmax_over_rows(x, s, W):
    return torch.tanh(x + s.softmax(0) @ W.T)


def straight_through(x, s, W):
    return torch.tanh(x + s @ W.T) + (s.mean(0) - s.mean(0).detach())


def independent(x, s, W):
    return torch.tanh(x + s @ W.T)


DEPENDENT = [
    branch_on_max, branch_on_item, branch_by_numpy, branch_that_detaches, by_length, by_norm,
    by_variance, by_sum, less_the_mean, softmax_over_rows, straight_through,
]  # fmt: skip


def by_hand(step, W: Tensor, x: Tensor) -> Tensor:
    s, h = torch.zeros(x.shape[1], H, dtype=F64), []
    for x_t in x:
        s = step(x_t, s, W)
        h.append(s)
    return torch.stack(h)


def layer_of(step):
    W = 0.5 * torch.randn(H, H, dtype=F64, generator=torch.Generator().manual_seed(0))
    return tt.Recurrent(tt.cells.Function(step, H, H, weights={"W": W}))


def inputs(T: int, B: int) -> Tensor:
    return 0.2 * torch.randn(T, B, H, dtype=F64, generator=torch.Generator().manual_seed(1))


def gradient(step, layer, x, of=lambda losses: losses.sum()) -> Tensor:
    W = layer.cell.W.detach().clone().requires_grad_()
    return torch.autograd.grad(of(by_hand(step, W, x).pow(2).sum((1, 2))), W)[0]


@pytest.fixture(params=[(5, 1), (5, 3), (44, 3), (48, 1)], ids="T={0[0]} B={0[1]}".format)
def sizes(request):
    return request.param


@pytest.fixture(params=[*DEPENDENT, independent], ids=lambda step: step.__name__)
def step(request):
    return request.param


@pytest.mark.parametrize("rows", [1, 3])
def test_the_longer_sizes_are_long_enough(rows):
    """More steps than keep their graph, and on both sides of every branch."""
    for step in (branch_on_max, branch_on_item, branch_by_numpy, branch_that_detaches):
        W, x = layer_of(step).cell.W.detach(), inputs(48 if rows == 1 else 44, rows)
        s, never = torch.zeros(rows, H, dtype=F64), 0
        for x_t in x:
            new = step(x_t, s, W)
            never += torch.equal(new, grows(x_t, s, W))
            s = new
        assert 5 < never < len(x) - 5


def test_the_layers_gradient_is_that_of_a_loop(step, sizes):
    layer, x = layer_of(step), inputs(*sizes)
    layer(x)[0].pow(2).sum().backward()
    assert_close(layer.cell.W.grad, gradient(step, layer, x), rtol=1e-10)


def test_every_term_of_the_flow_is_that_of_a_loop(step, sizes):
    (T, _), layer, x = sizes, layer_of(step), inputs(*sizes)
    with tt.trace(layer) as trace:
        losses = layer(x)[0].pow(2).sum((1, 2))
    flow = trace.flow(losses)["l0"]
    whole = gradient(step, layer, x)
    assert_close(flow.weight_grad("W"), whole, rtol=1e-10)
    assert_close(sum(flow.weight_grad("W", step=k) for k in range(1, T + 1)), whole, rtol=1e-10)
    last = gradient(step, layer, x, lambda losses: losses[-1])
    assert_close(flow.weight_grad("W", loss=T - 1), last, rtol=1e-10)
    s_0 = torch.zeros(x.shape[1], H, dtype=F64, requires_grad=True)
    s, states = s_0, [s_0]
    for x_t in x:
        s = step(x_t, s, layer.cell.W) * 1
        s = s if s.requires_grad else s.requires_grad_()
        states.append(s)
    want = torch.autograd.grad(s.pow(2).sum(), states, allow_unused=True, materialize_grads=True)
    assert_close(flow.norms[-1], torch.stack(want).norm(dim=-1), rtol=1e-9)
    dropped = flow.dropped(tt.Truncated(3))["W"]
    kept = tt.set_through(layer_of(step), tt.Truncated(3))
    kept(x)[0].pow(2).sum().backward()
    left_out = float((whole - kept.cell.W.grad).norm())
    assert dropped * float(whole.norm()) == pytest.approx(
        left_out, rel=1e-8, abs=1e-12 * float(whole.norm())
    )


def test_the_rows_shares_are_theirs_or_refused(step, sizes):
    layer, x = layer_of(step), inputs(*sizes)
    try:
        with tt.per_sample_grads(layer):
            layer(x)[0].pow(2).sum().backward()
    except UnsupportedError:
        assert sizes[1] > 1 and step is not independent
        return
    assert_close(layer.cell.W.grad, gradient(step, layer, x), rtol=1e-10)
    for b in range(sizes[1]):
        alone = gradient(step, layer, x[:, b : b + 1])
        assert_close(layer.cell.W.grad_sample[b], alone, rtol=1e-10)


def test_carried_forward_it_is_right_or_refused(step, sizes):
    layer, x = layer_of(step), inputs(*sizes)[:20]
    try:
        run = tt.rtrl(layer.cell, x, lambda t, h: h.pow(2).sum())
        for _ in run:
            pass
    except UnsupportedError:
        assert sizes[1] > 1 and step is not independent
        return
    assert_close(run.total["W"], gradient(step, layer, x), rtol=1e-9)


def test_a_jacobian_is_right_or_refused(step, sizes):
    (T, B), layer, x = sizes, layer_of(step), inputs(*sizes)
    with tt.trace(layer) as trace:
        losses = layer(x)[0].pow(2).sum((1, 2))
    flow = trace.flow(losses)["l0"]
    s = by_hand(step, layer.cell.W.detach(), x[: T - 1])[-1]
    J = torch.autograd.functional.jacobian(lambda s: step(x[-1], s, layer.cell.W.detach()), s)
    across = J.clone()
    for b in range(B):
        across[b, :, b] = 0
    try:
        got = flow.jacobian(T)
    except UnsupportedError:
        assert B > 1 and step is not independent
        with pytest.raises(UnsupportedError):
            flow.lyapunov()
        return
    assert not across.any()
    for b in range(B):
        assert_close(got[b], J[b, :, b], rtol=1e-10)


@pytest.mark.parametrize("step", DEPENDENT, ids=lambda step: step.__name__)
def test_rows_of_different_lengths_are_refused(step):
    with pytest.raises(UnsupportedError, match="depends on the other rows"):
        layer_of(step)(inputs(9, 3), lengths=[9, 4, 2])


def test_a_mask_of_the_batch_that_the_step_holds_is_named_as_why_a_row_has_no_share():
    mask = (torch.rand(3, H) > 0.3).to(F64)
    layer = layer_of(lambda x, s, W: torch.tanh(x + (s * mask) @ W.T))
    layer(inputs(40, 3))[0].sum().backward()
    said = "row by itself.*passed in as part of the input"
    with pytest.raises(UnsupportedError, match=said), tt.per_sample_grads(layer):
        layer(inputs(40, 3))[0].pow(2).sum().backward()


OWN, NUMPY = torch.Generator(), np.random.default_rng(0)
RANDOM = {
    "torch": lambda s: torch.rand_like(s),
    "a generator of one's own": lambda s: torch.rand(s.shape, generator=OWN, dtype=F64),
    "dropout": lambda s: torch.nn.functional.dropout(torch.ones_like(s), 0.5, True),
    "numpy's generator": lambda s: torch.from_numpy(NUMPY.random(s.shape)),
    "numpy": lambda s: torch.from_numpy(np.random.rand(*s.shape)),
    "python": lambda s: random.random(),
}


@pytest.mark.parametrize("T", [5, 60])
@pytest.mark.parametrize("at", ["everywhere", "far from zero", "late"])
@pytest.mark.parametrize("name", RANDOM)
def test_a_random_step_is_right_or_refused(name, T, at):
    """Noise that multiplies the state shows nothing at s_0 = 0; some comes after many steps."""
    drawn, calls = RANDOM[name], []

    def step(x, s, W):
        calls.append(1)
        factor = drawn(s)
        if at == "late" and len(calls) < T // 2:
            factor = 1.0
        noisy = s * factor
        if at == "everywhere":
            noisy = noisy + 0.1 * (drawn(s) - 0.5)
        return torch.tanh(x + noisy @ W.T)

    layer, x = layer_of(step), inputs(T, 3)
    try:
        layer(x)[0].pow(2).sum().backward()
    except (InputValueError, UnsupportedError):
        return
    # What was not refused must be the gradient of what was put out: few steps keep their graph.
    assert T < 32, "a step that gave other states when called again got a gradient"


@pytest.mark.parametrize("T", [5, 40])
def test_a_random_step_in_a_flow_is_refused(T):
    generator = torch.Generator()

    def step(x, s, W):
        return torch.tanh(x + (s * torch.rand(s.shape, generator=generator, dtype=F64)) @ W.T)

    layer = layer_of(step)
    with pytest.raises(ThroughTimeError):
        with tt.trace(layer) as trace:
            losses = layer(inputs(T, 3))[0].pow(2).sum((1, 2))
        trace.flow(losses)


def test_a_complex_states_jacobian_is_its_own_and_not_the_conjugate():
    W = torch.randn(3, 3, dtype=torch.complex128) / 3
    cell = tt.cells.Function(lambda x, s, W: torch.tanh(x + s @ W.T), 3, 3, weights={"W": W})
    layer, x = tt.Recurrent(cell), 0.3 * torch.randn(4, 2, 3, dtype=torch.complex128)
    with tt.trace(layer) as trace:
        losses = layer(x)[0].abs().pow(2).sum((1, 2))
    flow = trace.flow(losses)["l0"]
    s = flow.tape.s
    for t in (1, 3):
        slope = 1 - s[t] ** 2
        want = slope[:, :, None] * W
        assert (flow.jacobian(t) - want).norm() < 1e-12 * want.norm()
    product = flow.jacobian(3) @ flow.jacobian(2)
    assert (flow.jacobian_product(3, 1) - product).norm() < 1e-12 * product.norm()


def test_a_complex_step_that_is_not_holomorphic_has_no_jacobian():
    W = torch.randn(3, 3, dtype=torch.complex128) / 3
    cell = tt.cells.Function(lambda x, s, W: x + s.abs() * s @ W.T, 3, 3, weights={"W": W})
    layer, x = tt.Recurrent(cell), 0.3 * torch.randn(4, 2, 3, dtype=torch.complex128)
    with tt.trace(layer) as trace:
        losses = layer(x)[0].abs().pow(2).sum((1, 2))
    with pytest.raises(UnsupportedError, match="holomorphic"):
        trace.flow(losses)["l0"].jacobian(3)
