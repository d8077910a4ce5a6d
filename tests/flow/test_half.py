"""Half precision: what is measured is there, and right within what the dtype can hold."""

from __future__ import annotations

import pytest
import torch

import throughtime as tt

HALF = [torch.bfloat16, torch.float16]
MAKE = {
    "RNN": lambda dtype: tt.RNN(3, 6, dtype=dtype),
    "LSTM": lambda dtype: torch.nn.LSTM(3, 6, dtype=dtype),
    "GRU": lambda dtype: tt.GRU(3, 6, dtype=dtype),
    "MinGRU": lambda dtype: tt.Recurrent(tt.cells.MinGRU(3, 6, dtype=dtype)),
}


def flow_of(layer, x):
    with tt.trace(layer) as trace:
        losses = layer(x)[0].float().pow(2).sum((1, 2))
    return trace.flow(losses)["l0"], losses


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("kind", MAKE)
def test_exponents_and_singular_values_are_those_of_float64_within_the_dtypes_precision(
    kind, dtype
):
    half = MAKE[kind](dtype)
    x = torch.randn(30, 2, 3, dtype=dtype)
    wide = MAKE[kind](torch.float64)
    wide.load_state_dict(half.state_dict())
    got, want = flow_of(half, x)[0], flow_of(wide, x.double())[0]
    eps = torch.finfo(dtype).eps
    assert (got.lyapunov(2) - want.lyapunov(2)).abs().max() < 4 * eps
    assert (got.singular_values(5) - want.singular_values(5)).abs().max() < 20 * eps
    assert got.lyapunov().isfinite().all()


@pytest.mark.parametrize("dtype", HALF)
def test_a_report_of_half_precision_is_written(dtype, tmp_path):
    layer = tt.LSTM(3, 6, dtype=dtype)
    with tt.trace(layer) as trace:
        losses = layer(torch.randn(12, 2, 3, dtype=dtype))[0].float().pow(2).sum((1, 2))
    tt.write_report(trace.flow(losses), tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size > 0
    from throughtime.remedies import orthogonal_

    orthogonal_(layer)
