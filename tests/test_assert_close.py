"""The measuring rod itself: it must fail wherever an absolute tolerance would let a zero pass."""

from __future__ import annotations

import pytest
import torch

from oracles.by_hand import draw, layer, put_into, unrolled
from throughtime.errors import CheckError, InputTypeError
from throughtime.testing import assert_close, check_cell


def test_all_zeros_do_not_pass_for_a_vanished_gradient_although_allclose_lets_them():
    module = put_into("contracting", layer("lstm", 3, 6))
    output, runs = unrolled(module, draw(40, 1, 3))
    truth = torch.autograd.grad(output[-1].sum(), runs["l0"].states[1])[0]
    assert 0 < truth.norm() < 1e-9
    assert torch.allclose(torch.zeros_like(truth), truth)
    with pytest.raises(CheckError):
        assert_close(torch.zeros_like(truth), truth)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_fails_on_either_side_and_on_both(bad):
    good, not_finite = torch.ones(3), torch.tensor([1.0, bad, 1.0])
    for got, want in ((good, not_finite), (not_finite, good), (not_finite, not_finite)):
        with pytest.raises(CheckError):
            assert_close(got, want)


def test_an_exactly_zero_reference_must_be_met_exactly():
    assert_close(torch.zeros(3), torch.zeros(3))
    with pytest.raises(CheckError):
        assert_close(torch.tensor([0.0, 5e-324, 0.0], dtype=torch.float64), torch.zeros(3))


def test_the_error_is_relative_to_the_terms_own_norm_at_any_scale():
    want = draw(50)
    for scale in (1e-300, 1e-12, 1.0, 1e300):
        assert_close((want * (1 + 1e-11)) * scale, want * scale)
        with pytest.raises(CheckError):
            assert_close((want * (1 + 1e-9)) * scale, want * scale)


def test_another_shape_fails_although_it_would_broadcast():
    with pytest.raises(CheckError):
        assert_close(torch.ones(1, 3), torch.ones(3))


def test_the_message_names_the_quantity_and_the_entry():
    want = torch.ones(2, 3)
    got = want.clone()
    got[1, 2] = 1.5
    with pytest.raises(CheckError, match=r"dE/dW.*\[1, 2\].*got 1\.5.*should be 1"):
        assert_close(got, want, name="dE/dW")


def test_check_cell_refuses_what_is_no_cell():
    with pytest.raises(InputTypeError):
        check_cell(torch.nn.LSTMCell(3, 5))
