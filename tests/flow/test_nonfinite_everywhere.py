"""`first_nonfinite` and `.grad` agree, wherever an inf or NaN is put (eq. 10)."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import throughtime as tt
from oracles.by_hand import draw
from throughtime import cells

T, B, I, H = 4, 3, 2, 4


def function_cell() -> cells.Function:
    """Return a plain tanh network as a step function."""
    weights = {"W": draw(H, H) / 2, "U": draw(H, I)}
    return cells.Function(lambda x, s, W, U: torch.tanh(x @ U.T + s @ W.T), I, H, weights=weights)


CELLS = {
    "tanh": lambda: cells.Elman(I, H),
    "relu": lambda: cells.Elman(I, H, nonlinearity="relu"),
    "sigmoid": lambda: cells.Elman(I, H, nonlinearity="sigmoid"),
    "identity": lambda: cells.Elman(I, H, nonlinearity="identity"),
    "lstm": lambda: cells.LSTM(I, H),
    "projected": lambda: cells.LSTM(I, H, proj_size=2),
    "gru": lambda: cells.GRU(I, H),
    "peephole": lambda: cells.PeepholeLSTM(I, H),
    "layer norm": lambda: cells.LayerNormLSTM(I, H),
    "refine gates": lambda: cells.RefineLSTM(I, H),
    "leaky": lambda: cells.Leaky(I, H),
    "minimal": lambda: cells.MinGRU(I, H),
    "function": function_cell,
}
PLACES = ("input", "weight", "initial state", "target", "loss")
VALUES = (math.inf, -math.inf, math.nan)


def spoiled(kind: str, place: str, value: float, at: int, per_step: bool, ragged: bool):
    """Run a layer with one bad number; return its flow and all gradients that backward leaves."""
    torch.default_generator.manual_seed(at)  # torch.manual_seed takes as long as the layer
    layer = tt.Recurrent(CELLS[kind]().double())
    x, y = draw(T, B, I), draw(T, B, 1)
    s_0 = draw(B, layer.cell.state_size)
    weights = list(layer.cell.weights().values())
    scale = torch.ones(T, dtype=torch.float64)
    spots = {"input": [x], "weight": weights, "initial state": [s_0], "target": [y]}
    with torch.no_grad():
        for tensor in spots.get(place, [scale])[:: -1 if at % 2 else 1][:1]:
            tensor.view(-1)[at % tensor.numel()] = value
    x.requires_grad_()
    s_0.requires_grad_()
    # A step function is tried out on the rows, and refused ragged ones where that gives NaN.
    lengths = [T, 3, 1] if ragged and kind != "function" else None

    def losses() -> torch.Tensor:
        h = layer(x, s_0, lengths=lengths)[0]
        each = (h - y).pow(2).mean((1, 2)) * scale
        return each if per_step else each.sum()

    with tt.trace(layer) as trace:
        found = losses()
    flow = trace.flow(found)
    wanted = [x, s_0, *layer.parameters()]
    return flow["l0"], torch.autograd.grad(losses().sum(), wanted, allow_unused=True)


def finite(grads) -> bool:
    """Check whether all gradients are."""
    return all(g is None or bool(g.isfinite().all()) for g in grads)


@settings(max_examples=60)
@given(
    place=st.sampled_from(PLACES),
    value=st.sampled_from(VALUES),
    at=st.integers(0, 200),
    per_step=st.booleans(),
    ragged=st.booleans(),
)
@pytest.mark.parametrize("kind", CELLS)
def test_none_means_that_every_gradient_is_finite(kind, place, value, at, per_step, ragged):
    one, grads = spoiled(kind, place, value, at, per_step, ragged)
    bad = one.first_nonfinite
    if bad is None:
        assert finite(grads), (kind, place, value, at)
        return
    # What is named is really there.
    steps = {
        "forward": lambda: one.tape.s[bad.step, bad.row, bad.unit],
        "input": lambda: one.tape.x[bad.step - 1, bad.row, bad.unit],
        "backward": lambda: one.adjoint()[bad.step, bad.row, bad.unit],
        "weight": lambda: torch.cat([w.flatten() for w in one.cell.weights().values()]).sum(),
        "gradient": lambda: torch.cat([g.flatten() for g in grads if g is not None]).sum(),
    }
    assert not bool(steps[bad.direction]().isfinite())


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("kind", ["lstm", "gru", "tanh", "sigmoid"])
def test_input_over_which_the_states_stay_finite_is_named(kind, value):
    if math.isnan(value):
        pytest.skip("NaN always reaches the state")
    one, grads = spoiled(kind, "input", value, 5, True, False)
    assert not finite(grads)
    bad = one.first_nonfinite
    assert bad is not None
    stays = bool(one.tape.s.isfinite().all())
    assert bad.direction == ("input" if stays else "forward")
    if stays:
        assert (bad.step, bad.row, bad.unit) == (1, 2, 1), "entry 5 of the first step"


def test_a_term_that_overflows_alone_is_named_by_its_step():
    layer = tt.RNN(1, 1, nonlinearity="identity", bias=False)
    with torch.no_grad():
        layer.weight_hh_l0.zero_()
        layer.weight_ih_l0.fill_(1e-30)
    x = torch.ones(5, 1, 1)
    x[2] = 1e25
    with tt.trace(layer) as trace:
        losses = (layer(x)[0] * 1e20).sum((1, 2))
    one = trace.flow(losses)["l0"]
    assert one.tape.s.isfinite().all() and one.adjoint().isfinite().all()
    assert one.first_nonfinite[:2] == ("gradient", 3)
    assert tt.examine({"l0": one})[0].code == "gradient-overflow"


def test_a_bad_state_that_a_reset_zeroes_before_its_use_is_no_finding():
    layer, reset = tt.GRU(2, 3), torch.zeros(4, 2, dtype=torch.bool)
    reset[0, 1] = True
    state = torch.zeros(1, 2, 3)
    state[0, 1, 1] = math.nan
    with tt.trace(layer) as trace:
        losses = layer(draw(4, 2, 2).float(), state, reset=reset)[0].pow(2).mean((1, 2))
    flow = trace.flow(losses)
    assert flow["l0"].first_nonfinite is None
    assert not tt.examine(flow)
