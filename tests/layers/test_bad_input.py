"""Bad input to a layer: one error of the package's own, that says what came, and nothing done."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import pack_sequence

import throughtime as tt
from oracles.by_hand import F64, draw
from oracles.refused import refused
from throughtime import errors
from throughtime.testing import assert_close

T, B, I, H = 4, 2, 3, 5
x = draw(T, B, I)
h = draw(1, B, H)
no = torch.zeros(T, B, dtype=torch.bool)


Shape, Dtype, Device = errors.ShapeError, errors.DtypeError, errors.DeviceError
Value, Type = errors.InputValueError, errors.InputTypeError

INPUTS = {
    "one axis": (x[0, 0], Shape, ValueError, r"got 1: shape \(3,\)"),
    "four axes": (x[None], Shape, ValueError, r"got 4: shape \(1, 4, 2, 3\)"),
    "no axes": (x.sum(), Shape, ValueError, r"got 0: shape \(\)"),
    "other features": (draw(T, B, 7), Shape, ValueError, r"\(4, 2, 7\): I is 7, not 3"),
    "float32": (x.float(), Dtype, TypeError, r"torch.float32.*torch.float64"),
    "float16": (x.half(), Dtype, ValueError, r"torch.float16"),
    "integers": (x.long(), Dtype, TypeError, r"torch.int64"),
    "complex": (x + 0j, Dtype, TypeError, r"torch.complex128"),
    "another device": (x.to("meta"), Device, RuntimeError, r"meta.*cpu"),
    "no steps": (x[:0], Shape, ValueError, r"T=0.*\(0, 2, 3\)"),
    "a list": (x.tolist(), Type, TypeError, r"got list"),
    "None": (None, Type, TypeError, r"got NoneType"),
    "an array": (x.numpy(), Type, TypeError, r"got ndarray"),
}

HX = {
    "two axes": (h[0], Shape, ValueError, r"hx must have 3 axes.*shape \(2, 5\)"),
    "other rows": (draw(1, 3, H), Shape, ValueError, r"B is 3, not 2"),
    "other width": (draw(1, B, 4), Shape, ValueError, r"H is 4, not 5"),
    "other layers": (draw(2, B, H), Shape, RuntimeError, r"L is 2, not 1"),
    "float32": (h.float(), Dtype, TypeError, r"torch.float32"),
    "another device": (h.to("meta"), Device, ValueError, r"meta"),
    "a pair": ((h, h), Type, TypeError, r"got tuple"),
    "a number": (0.0, Type, TypeError, r"got float"),
}

LSTM_HX = {
    "one tensor": (h, Type, TypeError, r"pair \(h_0, c_0\).*got Tensor"),
    "three tensors": ((h, h, h), Type, TypeError, r"pair"),
    "another c_0": ((h, draw(1, B, 4)), Shape, ValueError, r"c_0.*H is 4"),
    "another h_0": ((h[0], h), Shape, ValueError, r"h_0 must have 3 axes"),
    "c_0 in float32": ((h, h.float()), Dtype, ValueError, r"c_0.*float32"),
    "no tensor": ((h, None), Type, TypeError, r"c_0.*NoneType"),
}

LENGTHS = {
    "zero": ([4, 0], Value, ValueError, r"1…T=4; got 0 to 4"),
    "negative": ([-1, 2], Value, ValueError, r"got -1 to 2"),
    "above T": ([5, 4], Value, ValueError, r"got 4 to 5"),
    "floats": ([4.0, 2.0], Dtype, TypeError, r"float32"),
    "a float tensor": (torch.tensor([4.0, 2.0]), Dtype, TypeError, r"float32"),
    "bools": ([True, True], Dtype, TypeError, r"bool"),
    "too few": ([4], Shape, ValueError, r"B is 1, not 2"),
    "too many": ([4, 4, 4], Shape, ValueError, r"B is 3, not 2"),
    "two axes": ([[4], [4]], Shape, ValueError, r"got 2: shape \(2, 1\)"),
    "a number": (4, Shape, ValueError, r"got 0: shape \(\)"),
    "words": (["a", "b"], Type, TypeError, r"list"),
    "ragged lists": ([[1], [1, 2]], Type, TypeError, r"list"),
}

RESET = {
    "integers": (no.long(), Dtype, TypeError, r"torch.int64"),
    "floats": (no.double(), Dtype, ValueError, r"torch.float64"),
    "a list": (no.tolist(), Type, TypeError, r"list"),
    "batch first": (no.T, Shape, ValueError, r"\(2, 4\)"),
    "one axis": (no[:, 0], Shape, ValueError, r"\(4,\)"),
    "another T": (no[:3], Shape, ValueError, r"\(3, 2\)"),
    "another device": (no.to("meta"), Device, RuntimeError, r"meta"),
}


def untouched(module: nn.Module):
    """Give a check that the module is as it was and still works."""
    before = copy.deepcopy(module.state_dict())
    output = module(x)[0]

    def check() -> None:
        assert all(torch.equal(module.state_dict()[n], v) for n, v in before.items())
        assert all(p.grad is None for p in module.parameters())
        assert_close(module(x)[0], output, rtol=0)

    return check


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU", "Recurrent"])
def test_a_wrong_input_is_refused(kind, name):
    wrong, *expected = INPUTS[name]
    if kind == "Recurrent":
        module = tt.Recurrent(tt.cells.GRU(I, H, dtype=F64))
    else:
        module = getattr(tt, kind)(I, H, dtype=F64)
    check = untouched(module)
    refused(lambda: module(wrong), *expected)
    check()


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_a_wrong_input_is_refused_inside_a_trace_too_and_not_recorded(kind, name):
    wrong, *expected = INPUTS[name]
    module = getattr(nn, kind)(I, H, dtype=F64)
    with tt.trace(module) as trace:
        refused(lambda: module(wrong), *expected)
        losses = module(x)[0].sum((1, 2))
    assert list(trace.flow(losses)) == ["l0"]


@pytest.mark.parametrize("name", HX)
@pytest.mark.parametrize("kind", ["RNN", "GRU"])
def test_a_wrong_initial_state_is_refused(kind, name):
    wrong, *expected = HX[name]
    module = getattr(tt, kind)(I, H, dtype=F64)
    check = untouched(module)
    refused(lambda: module(x, wrong), *expected)
    check()


@pytest.mark.parametrize("name", LSTM_HX)
def test_a_wrong_pair_of_initial_states_is_refused(name):
    wrong, *expected = LSTM_HX[name]
    module = tt.LSTM(I, H, dtype=F64)
    refused(lambda: module(x, wrong), *expected)


def test_an_initial_state_with_a_batch_axis_beside_an_input_without_one_is_refused():
    module = tt.GRU(I, H, dtype=F64)
    refused(
        lambda: module(x[:, 0], h[:, :1]), Shape, ValueError, r"hx must have 2 axes.*\(1, 1, 5\)"
    )


@pytest.mark.parametrize("name", LENGTHS)
def test_wrong_lengths_are_refused(name):
    wrong, *expected = LENGTHS[name]
    module = tt.LSTM(I, H, dtype=F64)
    check = untouched(module)
    refused(lambda: module(x, lengths=wrong), *expected)
    check()


def test_lengths_beside_a_packed_sequence_are_refused():
    packed = pack_sequence([draw(3, I), draw(2, I)])
    module = tt.GRU(I, H, dtype=F64)
    refused(lambda: module(packed, lengths=[3, 2]), Value, ValueError, "drop one of them")


def test_a_packed_sequence_of_other_features_is_refused():
    packed = pack_sequence([draw(3, 7), draw(2, 7)])
    module = tt.GRU(I, H, dtype=F64)
    refused(lambda: module(packed), Shape, ValueError, r"I is 7, not 3")


@pytest.mark.parametrize("name", RESET)
def test_a_wrong_reset_is_refused(name):
    wrong, *expected = RESET[name]
    module = tt.GRU(I, H, dtype=F64)
    check = untouched(module)
    refused(lambda: module(x, reset=wrong), *expected)
    check()


@settings(max_examples=60)
@given(st.lists(st.integers(0, 4), max_size=4), st.booleans())
def test_any_shape_is_either_served_or_refused_in_words(shape, batch_first):
    module = tt.GRU(I, 2, batch_first=batch_first)
    wrong = torch.zeros(shape)
    steps = shape[1] if batch_first and len(shape) == 3 else shape[0] if shape else 0
    if len(shape) in (2, 3) and shape[-1] == I and steps > 0:
        output, _ = module(wrong)
        assert output.shape == (*shape[:-1], 2)
    else:
        refused(lambda: module(wrong), Shape, ValueError, re.escape(str(tuple(shape))))


def told(module, *given, **named):
    with pytest.raises(Exception) as caught:
        module(*given, **named)
    return type(caught.value), str(caught.value)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_torchs_own_modules_are_never_given_what_is_wrong(kind):
    module = getattr(tt, kind)(I, H, dtype=F64)
    wrong: list[tuple[tuple, dict]] = [((case[0],), {}) for case in INPUTS.values()]
    wrong += [((x, case[0]), {}) for case in (LSTM_HX if kind == "LSTM" else HX).values()]
    wrong += [((x,), {"lengths": case[0]}) for case in LENGTHS.values()]
    wrong += [((x,), {"reset": case[0]}) for case in RESET.values()]
    wrong += [((x,), {"lengths": torch.tensor([4, 2], device="meta")})]
    for what, named in wrong:
        want = told(module, *what, **named)
        with tt.kernels.use("torch"):
            assert told(module, *what, **named) == want
        assert issubclass(want[0], tt.errors.ThroughTimeError)


@pytest.mark.parametrize("engine", ["auto", "reference", "torch"])
@pytest.mark.parametrize("name", ["weight_hh_l0", "bias_ih_l1"])
def test_weights_on_two_devices_are_refused(engine, name):
    module = tt.GRU(I, H, 2, dtype=F64)
    module(x)
    setattr(module, name, nn.Parameter(getattr(module, name).to("meta")))
    with tt.kernels.use(engine):
        for call in ({}, {"lengths": [4, 2]}, {"reset": no}):
            with pytest.raises(Device, match=f"{name} is on meta but weight_ih_l0 on cpu"):
                module(x, **call)
