"""`tt.rtrl` and BPTT judge each other: one goes forward by autograd, one back (eq. 2, 3, 5)."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import nn

import throughtime as tt
from throughtime import cells
from throughtime.errors import (
    DtypeError,
    GraphError,
    InputTypeError,
    InputValueError,
    ShapeError,
    UnsupportedError,
)
from throughtime.testing import assert_close

from .loops import F64, LENGTHS, B, I, T, draw, resets


class Residual(nn.Module):
    """A step of no known name, with modules of its own and two parts in its state."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Sequential(nn.Linear(I + 4, 5), nn.SiLU(), nn.Linear(5, 4))

    def forward(self, x, s):
        return 0.9 * s + self.mix(torch.cat((x, s), 1))


def rotation():
    W = draw(4, 4) / 2
    return cells.Function(
        lambda x, s, W, U: torch.sin(x @ U + s @ W),
        I,
        4,
        weights={"W": W, "U": draw(I, 4)},
    )


CELLS = {
    "tanh": lambda: cells.Elman(I, 4),
    "relu": lambda: cells.Elman(I, 4, "relu", bias=False),
    "sigmoid": lambda: cells.Elman(I, 3, "sigmoid"),
    "identity": lambda: cells.Elman(I, 3, "identity"),
    "LSTM": lambda: cells.LSTM(I, 3),
    "projected LSTM": lambda: cells.LSTM(I, 3, proj_size=2),
    "GRU": lambda: cells.GRU(I, 4),
    "leaky": lambda: cells.Leaky(I, 4),
    "minGRU": lambda: cells.MinGRU(I, 4),
    "peephole": lambda: cells.PeepholeLSTM(I, 3),
    "layer norm": lambda: cells.LayerNormLSTM(I, 3),
    "refine gates": lambda: cells.RefineLSTM(I, 3),
    "a function": rotation,
    "a module": lambda: cells.Function(Residual(), I, 2, 4),
    "no weights": lambda: cells.Function(lambda x, s: x.tanh() + s.sin(), I, I),
    "no memory": lambda: cells.Function(lambda x, s, W: x @ W, I, 4, weights={"W": draw(I, 4)}),
}
SETTINGS = {"plain": {}, "ragged": {"lengths": torch.tensor(LENGTHS), "reset": resets()}}


def error(t, h):
    """Give the loss of step t; the third has none."""
    return None if t == 3 else (h * draw(*h.shape, seed=t)).sum() + h.pow(2).sum()


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", CELLS)
def test_every_loss_has_the_gradient_of_bptt_at_its_own_step(name, setting):
    cell = CELLS[name]().double()
    x, s_0 = draw(T, B, I), draw(B, cell.state_size).requires_grad_()
    h, s_T = tt.Recurrent(cell)(x, s_0, **SETTINGS[setting])
    of = {"s_0": s_0, **cell.weights()}
    run = tt.rtrl(cell, x, error, s_0, **SETTINGS[setting])
    for step in run:
        assert_close(step.h, h[step.t - 1], rtol=1e-13)
        if step.t == 3:
            assert step.loss is None and step.grads == {} and step.s_0 is None
            continue
        loss = error(step.t, h[step.t - 1])
        want = torch.autograd.grad(
            loss, list(of.values()), retain_graph=True, materialize_grads=True
        )
        got = [step.s_0, *step.grads.values()]
        for what, a, b in zip(of, got, want, strict=True):
            assert_close(a, b, rtol=1e-10, name=f"dE_{step.t}/d({what})")
    assert run.t == T
    assert_close(run.s, s_T, rtol=1e-13)
    total = sum(error(t, h[t - 1]) for t in range(1, T + 1) if t != 3)
    want = torch.autograd.grad(total, list(of.values()), materialize_grads=True)
    for what, a, b in zip(of, [run.total_s_0, *run.total.values()], want, strict=True):
        assert_close(a, b, rtol=1e-10, name=f"dE/d({what})")


@pytest.mark.parametrize("name", ["LSTM", "GRU", "peephole", "layer norm"])
def test_a_vanished_gradient_over_two_hundred_steps_is_that_of_bptt(name):
    cell, steps = CELLS[name]().double(), 200
    x = draw(steps, 1, I)
    run = tt.rtrl(cell, x, lambda t, h: h.sum() if t == steps else None)
    assert sum(1 for _ in run) == steps
    s_0 = torch.zeros(1, cell.state_size, dtype=F64, requires_grad=True)
    h, _ = tt.Recurrent(cell)(x, s_0)
    h[-1].sum().backward()
    assert 0 < s_0.grad.norm() < 1e-15
    assert_close(run.total_s_0, s_0.grad, rtol=1e-10)
    for weight, parameter in cell.weights().items():
        assert_close(run.total[weight], parameter.grad, rtol=1e-10, name=weight)


def test_rtrl_notices_a_wrong_adjoint(monkeypatch):
    cell = cells.GRU(I, 4, dtype=F64)
    right = cells.GRU._back
    monkeypatch.setattr(
        cells.GRU, "_back", lambda self, factors, delta: (delta, right(self, factors, delta)[1])
    )
    x = draw(T, B, I)
    run = tt.rtrl(cell, x, error)
    list(run)
    layer = tt.Recurrent(cell)
    with tt.kernels.use("reference"):
        h, _ = layer(x)
        sum(error(t, h[t - 1]) for t in range(1, T + 1) if t != 3).backward()
    with pytest.raises(AssertionError):
        assert_close(cell.weight_hh.grad, run.total["weight_hh"], rtol=1e-3)


def test_a_stream_without_end_keeps_nothing_of_its_past():
    seen: list[weakref.ref] = []

    def stream():
        while True:
            x_t = torch.randn(1, I)
            seen.append(weakref.ref(x_t))
            yield x_t

    def reset():
        while True:
            yield torch.rand(1) < 0.1

    run = tt.rtrl(cells.Elman(I, 3), stream(), lambda t, h: h.sum(), reset=reset())
    kept = set()
    for step in run:
        tensors = [*run.__dict__.values(), *run._by_weight.values(), *run.total.values()]
        kept.add(sum(t.numel() for t in tensors if isinstance(t, torch.Tensor)))
        if step.t == 100:
            break
    assert len(kept) == 1
    del step
    assert sum(x_t() is not None for x_t in seen) <= 2


def test_the_loss_keeps_its_way_to_a_readout():
    cell, readout = cells.Elman(I, 4, dtype=F64), nn.Linear(4, 2, dtype=F64)
    x, y = draw(T, B, I), draw(T, B, 2)
    for step in tt.rtrl(cell, x, lambda t, h: (readout(h) - y[t - 1]).pow(2).sum()):
        step.loss.backward()
    assert all(p.grad is None for p in cell.parameters())
    h, _ = tt.Recurrent(cell)(x)
    want = torch.autograd.grad((readout(h) - y).pow(2).sum(), list(readout.parameters()))
    for parameter, grad in zip(readout.parameters(), want, strict=True):
        assert_close(parameter.grad, grad, rtol=1e-12)


def test_weights_may_be_changed_between_two_steps():
    cell = cells.Elman(1, 2)
    optimizer = torch.optim.SGD(cell.parameters(), 0.02)
    losses = []
    for step in tt.rtrl(cell, torch.ones(150, 1, 1), lambda t, h: (h - 0.5).pow(2).sum()):
        for weight, grad in step.grads.items():
            cell.weights()[weight].grad = grad
        optimizer.step()
        losses.append(float(step.loss.detach()))
    assert losses[-1] < 0.01 * losses[1]


def test_what_rtrl_cannot_use_is_refused_in_words():
    cell, x = cells.Elman(I, 4), torch.zeros(T, B, I)

    def loss(t, h):
        return h.sum()

    def run(*args, **options):
        return list(tt.rtrl(*args, **options))

    with pytest.raises(InputTypeError, match="cell must be a throughtime"):
        run(nn.RNNCell(I, 4), x, loss)
    with pytest.raises(InputTypeError, match="loss must be callable"):
        run(cell, x, torch.zeros(T))
    with pytest.raises(ShapeError, match=r"x must have 3 axes \(T, B, I\)"):
        run(cell, x[:, 0], loss)
    with pytest.raises(ShapeError, match="x_t must have shape"):
        run(cell, torch.zeros(T, B, I + 1), loss)
    with pytest.raises(ShapeError, match="B is 2, not 3"):
        run(cell, [x[0], x[1, :2]], loss)
    with pytest.raises(DtypeError, match=r"float64 but the weights are .*float32"):
        run(cell, x.double(), loss)
    with pytest.raises(InputValueError, match="x holds no step"):
        run(cell, [], loss)
    with pytest.raises(ShapeError, match="s_0 must have shape"):
        run(cell, x, loss, torch.zeros(B, 5))
    with pytest.raises(ShapeError, match="lengths must have shape"):
        run(cell, x, loss, lengths=torch.ones(B + 1, dtype=torch.long))
    for lengths in ([0] * B, [T + 1] * B):
        with pytest.raises(InputValueError, match=rf"1…T={T}"):
            run(cell, x, loss, lengths=lengths)
    with pytest.raises(DtypeError, match="integers"):
        run(cell, x, loss, lengths=[1.5] * B)
    with pytest.raises(DtypeError, match="bool"):
        run(cell, x, loss, reset=torch.zeros(T, B))
    normed = cells.Function(lambda x, s: torch.tanh((x + s) / (x + s).std(0)), I, I)
    with pytest.raises(UnsupportedError, match="depends on the other rows"):
        run(normed, torch.randn(T, B, I), loss)
    with pytest.raises(InputValueError, match="reset ends after 2 steps"):
        run(cell, x, loss, reset=torch.zeros(2, B, dtype=torch.bool))
    with pytest.raises(ShapeError, match=r"one number, or None; got \(3, 4\) at t=1"):
        run(cell, x, lambda t, h: h)
    with pytest.raises(GraphError, match="make it of the h"):
        run(cell, x, lambda t, h: torch.tensor(1.0))
