"""A cell whose weights are computed from others trains what they are computed from."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, spectral_norm, weight_norm

import throughtime as tt
from oracles.loop import B, H, I, T
from throughtime.testing import assert_close

pytestmark = pytest.mark.usefixtures("float64")

CELLS = {
    "Elman": tt.cells.Elman,
    "LSTM": tt.cells.LSTM,
    "GRU": tt.cells.GRU,
    "LayerNormLSTM": tt.cells.LayerNormLSTM,
    "RefineLSTM": tt.cells.RefineLSTM,
    "Leaky": tt.cells.Leaky,
    "PeepholeLSTM": tt.cells.PeepholeLSTM,
    "MinGRU": tt.cells.MinGRU,
}


class Scaled(nn.Module):
    def forward(self, weight):
        return weight * weight.abs().sum().sqrt()


def parametrized(module, name):
    parametrize.register_parametrization(module, name, Scaled())


WAYS = {
    "register_parametrization": parametrized,
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "the old weight_norm": weight_norm,
    "the old spectral_norm": spectral_norm,
}


def by_hand(weight, way, cell, name):
    """Give the computed weight from its sources, without the package's own function."""
    parts = dict(cell.named_parameters())
    if way == "the old weight_norm":
        v, g = parts[f"{name}_v"], parts[f"{name}_g"]
        return g * v / v.norm(dim=1, keepdim=True)
    if way == "the old spectral_norm":
        original = parts[f"{name}_orig"]
        u, v = (getattr(cell, f"{name}_{which}") for which in "uv")
        return original / torch.dot(u, original @ v)
    return weight


def layer_over(kind, way):
    name = "weight_ih" if kind == "MinGRU" else "weight_hh"
    layer = tt.Recurrent(CELLS[kind](I, H))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        WAYS[way](layer.cell, name)
    return layer.eval(), name  # eval: spectral norms keep their vectors


@pytest.mark.parametrize("through", [tt.Full(), tt.Truncated(T), tt.Checkpointed(2)], ids=str)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", CELLS)
def test_the_gradient_reaches_the_sources(kind, way, through):
    layer, name = layer_over(kind, way)
    tt.set_through(layer, through)
    x = torch.randn(T, B, I)
    found = torch.autograd.grad(layer(x)[0].sin().sum(), list(layer.parameters()))

    # The reference is another cell of this kind, with the computed weight as its own.
    weight = by_hand(getattr(layer.cell, name), way, layer.cell, name)
    plain = tt.Recurrent(CELLS[kind](I, H))
    sources = dict(layer.cell.named_parameters())
    values = {n: w for n, w in sources.items() if n in dict(plain.cell.named_parameters())}
    values = {f"cell.{n}": w for n, w in {**values, name: weight}.items()}
    output = torch.func.functional_call(plain, values, (x,))[0]
    expected = torch.autograd.grad(output.sin().sum(), list(layer.parameters()))
    for got, want, n in zip(found, expected, sources, strict=True):
        assert_close(got, want, rtol=1e-12, name=n)


@pytest.mark.parametrize("way", WAYS)
def test_a_step_of_ones_own_may_compute_its_weights_too(way):
    class Step(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(I + H, H)

        def forward(self, x, s):
            return torch.tanh(self.inner(torch.cat((x, s), 1)))

    step = Step()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        WAYS[way](step.inner, "weight")
    layer = tt.Recurrent(tt.cells.Function(step, I, H)).eval()
    x, s, total = torch.randn(T, B, I), torch.zeros(B, H), 0.0
    found = torch.autograd.grad(layer(x)[0].sin().sum(), list(layer.parameters()))
    for x_t in x:
        s = step(x_t, s)
        total = total + s.sin().sum()
    expected = torch.autograd.grad(total, list(step.parameters()))
    for got, want in zip(found, expected, strict=True):
        assert_close(got, want, rtol=1e-12)


def test_the_flow_names_the_weight_that_the_recurrence_has():
    layer, name = layer_over("LSTM", "weight_norm")
    with tt.trace(layer) as trace:
        losses = layer(torch.randn(T, B, I))[0].sin().sum((1, 2))
    assert name in trace.flow(losses)["l0"].weight_names


def test_rtrl_gives_the_gradient_of_the_computed_weight():
    layer, name = layer_over("GRU", "register_parametrization")
    x = torch.randn(T, B, I)
    run = tt.rtrl(layer.cell, x, lambda t, h: h.sin().sum())
    list(run)
    source = layer.cell.parametrizations[name].original
    (expected,) = torch.autograd.grad(layer(x)[0].sin().sum(), [source])
    (found,) = torch.autograd.grad(Scaled()(source), [source], run.total[name])
    assert_close(found, expected, rtol=1e-10)


def test_a_rows_share_is_refused():
    layer, _ = layer_over("LSTM", "weight_norm")
    with (
        pytest.raises(tt.errors.UnsupportedError, match="computed from other parameters"),
        tt.per_sample_grads(layer),
    ):
        pass


def test_other_hooks_and_the_cell_itself_stay():
    from throughtime.cells.computed import with_computed_weights

    cell = tt.cells.Elman(I, H)
    assert with_computed_weights(cell) is cell
    layer, name = layer_over("Elman", "the old weight_norm")
    layer.cell.register_forward_pre_hook(lambda *_: None)
    new = with_computed_weights(layer.cell)
    assert type(new) is tt.cells.Elman and len(new._forward_pre_hooks) == 1
    assert len(layer.cell._forward_pre_hooks) == 2 and name not in layer.cell._parameters
