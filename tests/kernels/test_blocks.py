"""`cells.Function` by blocks of steps, against a loop of autograd (eq. 5, 9)."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import throughtime as tt
from throughtime import sweep
from throughtime.kernels.comparison import term_error
from throughtime.kernels.plain import blocks, recorder
from throughtime.testing import assert_close

F64 = torch.float64
T, B, I, H = 11, 3, 2, 4


def draw(*shape: int, seed: int = 0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


WEIGHTS = {"W": draw(H, H) / 2, "U": draw(H, I, seed=1), "b": draw(H, seed=2)}


def leaky(x, s, W, U, b):
    return 0.7 * s + 0.3 * torch.tanh(nn.functional.linear(x, U, b) + s @ W.T)


def gated(x, s, W, U, b):
    f = torch.sigmoid(x @ U.T + s @ W.T)
    return s + f * (torch.tanh(b + (f * s) @ W) - s)


def parts(x, s, W, U, b):
    y, z = s.chunk(2, 1)
    z = z + 0.1 * (torch.tanh(s @ W.T + x @ U.T + b)[:, :2] - y - z)
    return torch.cat((y + 0.1 * z, z), 1)


def normalized(x, s, W, U, b):
    a = nn.functional.layer_norm(s, (H,)) @ W.T + x @ U.T
    return s + 0.3 * torch.where(a > 0, torch.sin(a), 0.1 * a) + b


def writes_into_its_own(x, s, W, U, b):
    h = x @ U.T + b
    h += s @ W.T
    out = torch.zeros_like(h)
    out[:, :2] = h[:, :2].tanh()
    out[:, 2:] = h[:, 2:].sigmoid()
    return out.mul_(0.9)


def stacks(x, s, W, U, b):
    return torch.stack((s @ W.T, x @ U.T, s)).logsumexp(0) + b


def batched_product(x, s, W, U, b):
    return torch.einsum("bi,bij->bj", s, W * torch.tanh(x @ U.T)[:, None]) + b


def identity(x, s, W, U, b):
    return s


def no_memory(x, s, W, U, b):
    return torch.tanh(x @ U.T + b) + 0 * s.detach()


def constant(x, s, W, U, b):
    return torch.ones_like(s)


def rows_last(x, s, W, U, b):
    return torch.tanh(W @ s.T + U @ x.T + b[:, None]).T * 0.9


STEPS = [leaky, gated, parts, normalized, writes_into_its_own, stacks, batched_product, identity,
         no_memory, constant, rows_last]  # fmt: skip


def batch_norm(x, s, W, U, b):
    return torch.tanh(nn.functional.batch_norm(s @ W.T + x @ U.T, None, None, training=True) + b)


def mixes_rows(x, s, W, U, b):
    return torch.tanh(s @ W.T + x @ U.T + 0.1 * s.roll(1, 0))


def row_constant(x, s, W, U, b):
    return torch.tanh(s @ W.T + x @ U.T + torch.linspace(0, 1, B, dtype=s.dtype)[:, None])


def looks_at_values(x, s, W, U, b):
    scale = 0.5 if float(s.detach()[0, 0]) > 0 else 0.9
    return torch.tanh(s @ W.T + x @ U.T) * scale


def turns_rows_around(x, s, W, U, b):
    return torch.tanh(s.flip(0) @ W.T + x.flip(0) @ U.T).flip(0) * 0.9


def folds_rows(x, s, W, U, b):
    return torch.sin((s @ W.T + x @ U.T).flatten()).view_as(s)


class OwnBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a):
        ctx.save_for_backward(a)
        return a.tanh()

    @staticmethod
    def backward(ctx, g):
        (a,) = ctx.saved_tensors
        return g * torch.tensor([0.5, 1, 1, 1], dtype=a.dtype) * (1 - a.tanh() ** 2)


def backward_with_a_tensor_of_its_own(x, s, W, U, b):
    return OwnBackward.apply(s @ W.T + x @ U.T)


# Each with the reason that is to be given.
APART = {
    batch_norm: "depends on the other rows",
    mixes_rows: "depends on the other rows",
    row_constant: "cannot take 6 rows instead of 3",
    looks_at_values: "depends on the other rows|looks at the values",
    turns_rows_around: "does not keep the batch's rows in their order",
    folds_rows: "folds the batch's rows",
    backward_with_a_tensor_of_its_own: "takes a tensor of its own",
}


def layer_of(step, dtype=F64):
    weights = {name: w.to(dtype).clone() for name, w in WEIGHTS.items()}
    return tt.Recurrent(tt.cells.Function(step, I, H, weights=weights))


def by_hand(step, weights, x, s, lengths=None, reset=None):
    h = []
    for t, x_t in enumerate(x):
        s = s if reset is None else s * ~reset[t, :, None]
        s_t = step(x_t, s, **weights)
        takes = torch.tensor([[lengths is None or t < lengths[b]] for b in range(len(s))])
        s = torch.where(takes, s_t, s)
        h.append(s * takes)
    return torch.stack(h), s


def loss(h, s_T):
    return (h * draw(*h.shape, seed=5)).sum() + h.pow(2).sum() + (s_T * draw(*s_T.shape)).sum()


def ragged():
    reset = torch.zeros(T, B, dtype=torch.bool)
    reset[4, 0] = reset[2, 1] = reset[0, 1] = True
    return {"lengths": [T, 4, 7], "reset": reset}


@pytest.fixture(params=[1, 3, 100], ids="blocks of {} steps".format, autouse=True)
def block(request, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", request.param * B * H * 8)
    monkeypatch.setattr(blocks, "WORTH_LEARNING", 2)
    return request.param


@pytest.mark.parametrize("options", [{}, ragged()], ids=["whole", "ragged, resets"])
@pytest.mark.parametrize("step", [*STEPS, *APART], ids=lambda step: step.__name__)
def test_gradients_are_those_of_a_loop_of_autograd(step, options):
    if "lengths" in options and step in (batch_norm, mixes_rows):
        options = {"reset": options["reset"]}
    layer = layer_of(step)
    x, s_0 = draw(T, B, I).requires_grad_(), draw(B, H, seed=3).requires_grad_()
    weights = layer.cell.weights()
    of = [x, s_0, *weights.values()]
    h, s_T = layer(x, s_0, **options)
    if not h.requires_grad:
        return
    got = torch.autograd.grad(loss(h, s_T), of, materialize_grads=True)
    want_h, want_s = by_hand(step, weights, x, s_0, **options)
    if want_h.requires_grad:
        want = torch.autograd.grad(loss(want_h, want_s), of, materialize_grads=True)
    else:
        want = [torch.zeros_like(o) for o in of]
    assert_close(h, want_h, rtol=1e-13)
    for name, a, b in zip(("x", "s_0", *weights), got, want, strict=True):
        assert_close(a, b, rtol=1e-12, name=name)


@pytest.mark.parametrize("step", [*STEPS, *APART], ids=lambda step: step.__name__)
def test_what_ran_is_said_and_why_it_was_not_blocks(step, block):
    layer = layer_of(step)
    layer(draw(T, B, I))[0].sum().backward()
    chosen = tt.kernels.last_choice()
    if step not in APART:
        assert chosen.name == "blocks"
        assert tt.kernels.choice(layer.cell).name == "blocks"
    elif block > 1 or layer.cell.apart:
        assert chosen.name == "reference"
        assert "one step at a time" in chosen.reason
        with pytest.raises(AssertionError, match=APART[step]):
            raise AssertionError(chosen.reason)


@pytest.mark.parametrize("way", ["_block", "_unrolled"])
def test_each_way_gives_the_adjoints_of_the_sweep(way, monkeypatch):
    monkeypatch.setattr(blocks, "WORTH_LEARNING", 2 if way == "_block" else T + 1)
    cell, mask = layer_of(gated).cell, ragged()
    active = torch.arange(T)[:, None] < torch.tensor(mask["lengths"])
    tape = sweep.forward(cell, draw(T, B, I), draw(B, H), active, mask["reset"] & active)
    g, delta_T = draw(1, T, B, H, seed=2), draw(1, B, H, seed=3)
    for got, want in zip(
        blocks.backward(cell, tape, g, delta_T),
        sweep.backward(cell, tape, g, delta_T),
        strict=True,
    ):
        assert term_error(got, want) < 1e-12


@pytest.mark.parametrize("schedule", [tt.Checkpointed(4), tt.Truncated(T, 1)], ids=str)
@pytest.mark.parametrize("step", [gated, batch_norm], ids=lambda step: step.__name__)
def test_schedules_that_are_exact_give_the_same(step, schedule):
    layer, x = layer_of(step), draw(T, B, I)
    found = []
    for through in (tt.Full(), schedule):
        tt.set_through(layer, through).zero_grad()
        loss(*layer(x, reset=ragged()["reset"])).backward()
        found.append([p.grad.clone() for p in layer.parameters()])
    for a, b in zip(*found, strict=True):
        assert_close(a, b, rtol=1e-12)


@pytest.mark.parametrize("step", [gated, batch_norm], ids=lambda step: step.__name__)
def test_many_losses_and_the_flow_are_right_where_rows_depend_on_each_other(step):
    layer, x = layer_of(step), draw(5, B, I)
    with tt.trace(layer) as trace:
        losses = layer(x)[0].pow(2).sum((1, 2))
    flow = trace.flow(losses)["l0"]
    weights = {name: w.detach().requires_grad_() for name, w in layer.cell.weights().items()}
    h, _ = by_hand(step, weights, x, torch.zeros(B, H, dtype=F64))
    for v in range(5):
        (want,) = torch.autograd.grad(h[v].pow(2).sum(), weights["W"], retain_graph=True)
        assert_close(flow.weight_grad("W", loss=v), want, rtol=1e-11)


@pytest.mark.parametrize("step", [batch_norm, mixes_rows], ids=lambda step: step.__name__)
def test_rows_that_depend_on_each_other_must_have_one_length(step):
    with pytest.raises(tt.errors.UnsupportedError, match="those that have ended would still"):
        layer_of(step)(draw(T, B, I), lengths=[T, 4, 7])


@pytest.mark.parametrize("step", [gated, batch_norm], ids=lambda step: step.__name__)
def test_losses_carried_at_once_give_what_they_give_one_by_one(step):
    layer, x = layer_of(step), draw(T, B, I).requires_grad_()
    of, h = [x, *layer.parameters()], layer(x)[0]
    seeds = draw(3, *h.shape, seed=4)
    got = torch.func.vmap(lambda seed: torch.autograd.grad(h, of, seed, retain_graph=True))(seeds)
    adjoints, _ = sweep.backward(layer.cell, sweep.forward(layer.cell, x, h[0].detach()), seeds)
    for v, seed in enumerate(seeds):
        tape = sweep.forward(layer.cell, x, h[0].detach())
        assert_close(adjoints[v], sweep.backward(layer.cell, tape, seed[None])[0][0], rtol=1e-12)
        want = torch.autograd.grad(h, of, seed, retain_graph=True)
        for a, b in zip(got, want, strict=True):
            assert_close(a[v], b, rtol=1e-12)


def test_rows_that_depend_on_each_other_are_noticed_by_the_states_too(monkeypatch, block):
    monkeypatch.setattr(tt.cells.Function, "examine", lambda *_, **__: None)
    layer, x = layer_of(batch_norm), draw(T, B, I)
    layer(x)[0].pow(2).sum().backward()
    weights = {name: w.detach().requires_grad_() for name, w in layer.cell.weights().items()}
    h, _ = by_hand(batch_norm, weights, x, torch.zeros(B, H, dtype=F64))
    h.pow(2).sum().backward()
    for name, w in weights.items():
        assert_close(getattr(layer.cell, name).grad, w.grad, rtol=1e-12, name=name)
    if block > 1:
        assert "depends on the other rows" in tt.kernels.last_choice().reason


def test_float32_is_as_near_as_autograd_is():
    layer, exact = layer_of(gated, torch.float32), layer_of(gated)
    x = draw(T, B, I)
    loss_of = lambda layer, x: layer(x)[0].pow(2).sum()  # noqa: E731
    loss_of(layer, x.float()).backward()
    loss_of(exact, x).backward()
    for a, b in zip(layer.parameters(), exact.parameters(), strict=True):
        assert a.grad.dtype == torch.float32
        assert_close(a.grad, b.grad, rtol=1e-5)


def test_a_step_that_changed_between_two_calls_is_followed_anew():
    rate = [0.5]
    layer = layer_of(lambda x, s, W, U, b: s + rate[0] * torch.tanh(s @ W.T + x @ U.T))
    x, grads = draw(T, B, I), []
    for rate[0] in (0.5, 0.1):
        layer.zero_grad()
        layer(x)[0].sum().backward()
        grads.append(layer.cell.W.grad.clone())
        weights = {n: w.detach().requires_grad_() for n, w in layer.cell.weights().items()}
        h, _ = by_hand(layer.cell.step_function, weights, x, torch.zeros(B, H, dtype=F64))
        (want,) = torch.autograd.grad(h.sum(), weights["W"])
        assert_close(grads[-1], want, rtol=1e-12)
    assert (grads[0] - grads[1]).norm() > 0.1 * grads[0].norm()


@pytest.mark.parametrize("block", [3], indirect=True)  # how many are kept is none of its business
def test_programs_that_are_kept_do_not_pile_up(monkeypatch):
    monkeypatch.setattr(recorder, "_AT_MOST", 8)
    monkeypatch.setattr(recorder, "_COMPILED", type(recorder._COMPILED)())
    for power in range(2 * recorder._AT_MOST):
        layer = layer_of(lambda x, s, W, U, b, n=power: (s * 1.01**n).sin() + x @ U.T)
        layer(draw(T, B, I))[0].sum().backward()
    assert len(recorder._COMPILED) <= recorder._AT_MOST


def test_a_chain_with_a_wrong_link_is_noticed(monkeypatch):
    """The comparison above must be able to fail: a mutant of the chain."""
    whole = blocks._BackwardPass._chain

    def late(self, tape, g, columns, delta):
        moved = [c if c.axis is None else c._replace(kept=c.kept.roll(-1, c.axis)) for c in columns]
        return whole(self, tape, g, moved, delta)

    layer, x = layer_of(gated), draw(T, B, I)
    layer(x)[0].sum().backward()
    right = layer.cell.W.grad.clone()
    layer.zero_grad()
    monkeypatch.setattr(blocks._BackwardPass, "_chain", late)
    layer(x)[0].sum().backward()
    if blocks.BLOCK_BYTES > B * H * 8:
        assert (layer.cell.W.grad - right).norm() > 1e-3 * right.norm()
