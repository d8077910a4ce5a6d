"""Bad step functions: one error each, that says what came and what to do, and nothing done."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import throughtime as tt
from oracles.by_hand import F64, draw
from throughtime import errors

T, B, I, H = 5, 3, 2, 4
CAPTURED = draw(H, H).requires_grad_()


def writes_into_the_state(x, s, W):
    s *= 0.9
    return torch.tanh(s + x @ W)


def writes_into_a_part_of_it(x, s, W):
    s[:, 0] = 0
    return torch.tanh(s + x @ W)


def writes_into_the_input(x, s, W):
    x.relu_()
    return torch.tanh(s + x @ W)


def writes_unseen(x, s, W):
    return torch.tanh(s + x @ W)


BAD = {
    "a wider state": (
        lambda x, s, W: torch.cat((s, x), 1),
        errors.ShapeError,
        r"shape of the one it was given, \(3, 4\); got \(3, 6\)",
    ),
    "no rows": (lambda x, s, W: (s + x @ W).sum(0), errors.ShapeError, r"\(3, 4\); got \(4,\)"),
    "float32": (
        lambda x, s, W: (s + x @ W).float(),
        errors.DtypeError,
        r"keep the state's dtype torch\.float64; got torch\.float32",
    ),
    "a tuple": (
        lambda x, s, W: (s + x @ W, s),
        errors.InputTypeError,
        r"one tensor \(B, S\); got tuple\. Concatenate",
    ),
    "nothing": (lambda x, s, W: None, errors.InputTypeError, r"got NoneType"),
    "NaN": (
        lambda x, s, W: torch.log(-1 - s.abs()) + x @ W,
        errors.NonFiniteError,
        r"NaN in row 0, unit 0",
    ),
    "writes into the state": (
        writes_into_the_state,
        errors.InputValueError,
        r"writes into the input or the state.*`s \*= decay`",
    ),
    "writes into a part": (writes_into_a_part_of_it, errors.InputValueError, r"writes into"),
    "writes into the input": (writes_into_the_input, errors.InputValueError, r"writes into"),
    "dropout": (
        lambda x, s, W: nn.functional.dropout(s + x @ W, 0.5),
        errors.InputValueError,
        r"same state when called again.*draws random.*call eval\(\)",
    ),
    "noise": (
        lambda x, s, W: s + x @ W + torch.randn_like(s),
        errors.InputValueError,
        r"same state when called again.*draws random.*outside",
    ),
    "little noise": (
        lambda x, s, W: s + x @ W + 1e-12 * torch.randn_like(s),
        errors.InputValueError,
        r"draws random numbers",
    ),
    "a counter": (
        lambda x, s, W, n=[0]: s + x @ W + (n.append(0) or len(n)),
        errors.InputValueError,
        r"same state when called again.*got another",
    ),
    "detached": (
        lambda x, s, W: torch.tanh(s + x @ W).detach(),
        errors.GraphError,
        r"autograd sees nothing.*without a graph",
    ),
    "without gradients": (
        torch.no_grad()(lambda x, s, W: torch.tanh(s + x @ W)),
        errors.GraphError,
        r"autograd sees nothing",
    ),
    "a captured weight": (
        lambda x, s, W: torch.tanh(s @ CAPTURED + x @ W),
        errors.GraphError,
        r"requires grad and is not among its weights.*weights=\{name: tensor\}",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_step_is_refused_in_words_and_nothing_is_done(name):
    step, kind, words = BAD[name]
    layer = tt.Recurrent(tt.cells.Function(step, I, H, weights={"W": draw(I, H)}))
    x, s_0 = draw(T, B, I), draw(B, H)
    before = x.clone(), s_0.clone()
    with pytest.raises(errors.ThroughTimeError, match=words) as caught:
        layer(x, s_0)
    assert type(caught.value) is kind
    assert torch.equal(x, before[0]) and torch.equal(s_0, before[1])
    assert layer.cell.W.grad is None


@pytest.mark.parametrize("name", ["writes into the state", "a tuple", "float32", "a wider state"])
def test_so_it_is_without_gradients(name):
    step, kind, words = BAD[name]
    layer = tt.Recurrent(tt.cells.Function(step, I, H, weights={"W": draw(I, H)}))
    with torch.no_grad(), pytest.raises(kind, match=words):
        layer(draw(T, B, I), draw(B, H))
    with torch.inference_mode():
        ok = tt.Recurrent(tt.cells.Function(writes_unseen, I, H, weights={"W": draw(I, H)}))
        assert ok(draw(T, B, I))[0].isfinite().all()


def test_nan_that_came_in_is_not_the_steps_fault():
    layer = tt.Recurrent(tt.cells.Function(writes_unseen, I, H, weights={"W": draw(I, H)}))
    x = draw(T, B, I)
    x[0, 0, 0] = torch.nan
    assert layer(x)[0][:, 0].isnan().all()
    with torch.no_grad():
        layer.cell.W[:, 0] = torch.tensor([torch.inf, -torch.inf])
    assert layer(draw(T, B, I).abs())[0].isnan().any()


class Normalized(nn.Module):
    """Statistics over the batch, and what they leave in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(I + H, H, dtype=F64)
        self.norm = nn.BatchNorm1d(H, dtype=F64)

    def forward(self, x, s):
        return torch.tanh(self.norm(self.linear(torch.cat((x, s), 1))))


def test_trying_a_step_leaves_its_buffers_alone():
    layer, alone = tt.Recurrent(tt.cells.Function(Normalized(), I, H)), Normalized()
    alone.load_state_dict(layer.cell.step_function.state_dict())
    x, s = draw(T, B, I), torch.zeros(B, H, dtype=F64)
    layer(x)
    for x_t in x:
        s = alone(x_t, s)
    norm = layer.cell.step_function.norm
    assert torch.equal(norm.running_mean, alone.norm.running_mean)
    assert torch.equal(norm.num_batches_tracked, alone.norm.num_batches_tracked)
    assert "depends on the other rows" in layer.cell.apart
    layer.eval()(x)
    assert not layer.cell.apart


class Wrong(tt.cells.MinGRU):
    """A cell of somebody's own, one of whose methods gives what it should not."""

    def __init__(self, method, spoil):
        super().__init__(I, H, dtype=F64)
        setattr(self, method, lambda *given: spoil(getattr(super(Wrong, self), method)(*given)))

    affine = tt.cells.AbstractCell.affine  # a step at a time


@pytest.mark.parametrize(
    ("method", "spoil", "words"),
    [
        ("step", lambda r: r[0], r"Wrong\.step must return s_t \(3, 4\).*got \(3, 4\) alone"),
        ("step", lambda r: (r[0][:, :2], r[1]), r"Wrong\.step .*got \(3, 2\)"),
        ("vjp", lambda r: r[0], r"Wrong\.vjp must return J_tᵀ delta \(1, 3, 4\).*alone"),
        ("vjp", lambda r: (r[0][0], r[1]), r"Wrong\.vjp .*got \(3, 4\)"),
        ("vjp", lambda r: None, r"Wrong\.vjp .*got NoneType alone"),
    ],
)
def test_a_cell_whose_methods_give_other_things_is_refused_in_words(method, spoil, words):
    layer = tt.Recurrent(Wrong(method, spoil))
    with pytest.raises(errors.ShapeError, match=words + r".*check_cell"):
        layer(draw(T, B, I))[0].sum().backward()
