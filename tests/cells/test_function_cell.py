"""`cells.Function`: any user's step, held against the cells that are written out (eq. 1, 5, 9)."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import throughtime as tt
from oracles.by_hand import F64, draw, layer, step, weights_of
from oracles.models import B, I, T, per_step, resets
from throughtime.testing import assert_close, check_cell

LENGTHS = [4, 6, 1]


def as_function(kind: str, H: int = 4):
    """Give a layer, and the same recurrence as a function over the same numbers."""
    module = layer(kind, I, H)
    weights = {n: w.detach().clone() for n, w in weights_of(module, "l0").items()}
    cell = tt.cells.Function(
        lambda x, s, **w: step(kind, w, x, s),
        I,
        H,
        2 * H if kind == "lstm" else H,
        weights=weights,
    )
    return module, tt.Recurrent(cell)


@pytest.mark.parametrize("kind", ["tanh", "lstm", "gru"])
def test_a_function_gives_the_gradients_and_the_flow_of_the_cell_it_copies(kind):
    module, copy = as_function(kind)
    flows = []
    for one in (module, copy):
        with tt.trace(one) as trace:
            losses = per_step(one(draw(T, B, I), lengths=LENGTHS, reset=resets())[0])
        flows.append(trace.flow(losses)["l0"])
        losses.sum().backward()
    ours, theirs = flows[1], flows[0]
    assert_close(ours.norms, theirs.norms)
    assert_close(ours.jacobian(3), theirs.jacobian(3))
    assert_close(ours.lyapunov(2), theirs.lyapunov(2), rtol=1e-9)
    for name in theirs.weight_names:
        assert_close(getattr(copy.cell, name).grad, getattr(module, f"{name}_l0").grad, name=name)
        for v, k in ((0, 1), (3, 2), (5, 5)):
            term = theirs.weight_grad(name, loss=v, step=k)
            assert_close(ours.weight_grad(name, loss=v, step=k), term, name=name)


class Leaky(nn.Module):
    """A step with its own modules, one of them within another."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(I + 4, 6, dtype=F64), nn.SiLU())
        self.out = nn.Linear(6, 4, dtype=F64)
        self.rate = nn.Parameter(torch.full((4,), 0.3, dtype=F64))

    def forward(self, x, s):
        return (1 - self.rate) * s + self.rate * self.out(self.inner(torch.cat((x, s), 1)))


def test_a_module_as_step_is_trained_through_its_own_parameters():
    module = tt.Recurrent(tt.cells.Function(Leaky(), I, 4))
    x = draw(T, B, I)
    per_step(module(x)[0]).sum().backward()
    step_module, s, h = module.cell.step_function, torch.zeros(B, 4, dtype=F64), []
    for x_t in x:
        s = step_module(x_t, s)
        h.append(s)
    want = torch.autograd.grad(per_step(torch.stack(h)).sum(), list(step_module.parameters()))
    for parameter, grad in zip(step_module.parameters(), want, strict=True):
        assert_close(parameter.grad, grad)


@pytest.mark.parametrize(
    "cell",
    [
        tt.cells.Function(Leaky(), I, 4),
        tt.cells.Function(lambda x, s: x.tanh() + 0.5 * s, 4, 4),
        tt.cells.Function(lambda x, s: 0.5 * s.sin() + s.roll(1, 1), 4, 2, 4),
        tt.cells.Function(lambda x, s, W: x @ W, 4, 4, weights={"W": torch.eye(4)}),
    ],
    ids=["a module", "no weights", "a wider state", "no memory"],
)
def test_functions_of_every_sort_pass_check_cell(cell):
    check_cell(cell)


def test_a_frozen_weight_of_a_function_gets_no_gradient():
    _, module = as_function("tanh")
    module.cell.weight_ih.requires_grad_(False)
    per_step(module(draw(T, B, I))[0]).sum().backward()
    assert module.cell.weight_ih.grad is None and module.cell.weight_hh.grad is not None


def test_without_a_batch_axis_and_batch_first_a_recurrent_layer_gives_the_same():
    _, module = as_function("gru")
    x = draw(T, B, I)
    output, s_n = module(x)
    alone, s_alone = module(x[:, 1])
    assert_close(alone, output[:, 1], rtol=1e-14)
    assert_close(s_alone, s_n[1], rtol=1e-14)
    turned = tt.Recurrent(module.cell, batch_first=True)
    assert_close(turned(x.transpose(0, 1))[0], output.transpose(0, 1), rtol=0)


@pytest.mark.parametrize(
    ("weights", "kind", "match"),
    [
        ([torch.eye(4)], TypeError, "a dict of tensors"),
        ({"W": [1.0]}, TypeError, "weight W must be a tensor; got list"),
        ({"W": torch.eye(4).long()}, TypeError, "floating point"),
        ({"step": torch.eye(4)}, ValueError, "cannot be called 'step'"),
        ({"apart": torch.eye(4)}, ValueError, "cannot be called 'apart'"),
        ({"a.b": torch.eye(4)}, ValueError, "cannot be called 'a.b'"),
        ({1: torch.eye(4)}, ValueError, "cannot be called 1"),
    ],
)
def test_weights_that_cannot_be_are_refused_in_words(weights, kind, match):
    with pytest.raises(tt.errors.ThroughTimeError, match=match) as caught:
        tt.cells.Function(lambda x, s, **w: x + s, 4, 4, weights=weights)
    assert isinstance(caught.value, kind)


def test_a_function_is_trained_under_autocast_in_its_own_precision():
    weights = {"W": torch.eye(4) / 2, "U": torch.ones(4, I) / 3}
    step = tt.cells.Function(
        lambda x, s, W, U: torch.tanh(x @ U.T + s @ W.T), I, 4, weights=weights
    )
    module, x = tt.Recurrent(step).float(), draw(T, B, I).float()
    found = []
    for enabled in (True, False):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            output, _ = module(x)
        found.append((output, *torch.autograd.grad(output.sin().sum(), list(module.parameters()))))
    for got, want in zip(*found, strict=True):
        assert got.dtype == torch.float32
        assert_close(got, want, rtol=0)


def test_a_window_gives_no_number_where_a_row_is_reached_by_way_of_another():
    """A loss on row 0 alone, and a step that takes the mean over the batch (eq. 9)."""
    weights = {"W": draw(4, 4) / 4, "U": draw(4, I)}
    cell = tt.cells.Function(
        lambda x, s, W, U: torch.tanh(x @ U.T + s @ W.T) + s.mean(0), I, 4, weights=weights
    )
    model = tt.Recurrent(cell)
    with tt.trace(model) as trace:
        losses = model(draw(T, B, I))[0][-1:, 0].pow(2).sum(1)
    whole, cut = trace.flow(losses)["l0"], trace.flow(losses, window=1)["l0"]
    measured = ~cut.norms.isnan()
    assert_close(cut.norms[measured], whole.norms[measured])
    assert (whole.norms[0, : T - 1, 1] > 0).all() and not measured[0, : T - 1].any()
