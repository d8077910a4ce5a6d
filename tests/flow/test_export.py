"""A flow as plain data: it goes through strict JSON, and every number comes back as it was."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import throughtime as tt
from throughtime.flow import export, from_dict

TENSORS = ("loss_index", "enters", "lag_profile", "total_norms", "entering_norms")


def flow_of(model: nn.Module, *, scalar: bool = False, dtype=torch.float64, **options) -> tt.Flow:
    torch.manual_seed(3)
    model = model.to(dtype)
    with tt.trace(model) as trace:
        losses = model(torch.randn(9, 2, 3, dtype=dtype))[0].pow(2).mean((1, 2))
        losses = losses.sum() if scalar else losses
    return trace.flow(losses, **options)


def overflowing() -> tt.Flow:
    rnn = tt.RNN(3, 4, nonlinearity="identity")
    with torch.no_grad():
        rnn.weight_hh_l0.mul_(1e6)
    return flow_of(rnn, dtype=torch.float32)


FLOWS = {
    "two directions": lambda: flow_of(nn.GRU(3, 4, bidirectional=True)),
    "float32": lambda: flow_of(nn.LSTM(3, 4), dtype=torch.float32),
    "a scalar": lambda: flow_of(nn.RNN(3, 4), scalar=True),
    "a window": lambda: flow_of(nn.RNN(3, 4), window=2),
    "a truncated layer": lambda: flow_of(tt.LSTM(3, 4, through=tt.Truncated(4))),
    "an overflow": overflowing,
}


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a.nan_to_num(-1), b.nan_to_num(-1))


@pytest.mark.parametrize("name", FLOWS)
def test_a_flow_comes_back_from_json_as_it_was(name):
    flow = FLOWS[name]()
    data = flow.to_dict(norms=True)
    assert (data["format"], data["version"]) == ("throughtime.flow", 1)
    read = from_dict(json.loads(json.dumps(data, allow_nan=False)))
    assert read.split == flow.split and list(read.layers) == list(flow)
    for key, layer in flow.items():
        found = read.layers[key]
        for entry in TENSORS:
            value = getattr(layer, entry)
            assert same(getattr(found, entry), value() if callable(value) else value), entry
        assert same(found.norms, layer.norms)
        assert found.horizon == layer.horizon() and found.window_ends == layer.window_ends
        assert found.first_nonfinite == layer.first_nonfinite
        assert (found.kind, found.through) == (type(layer.cell).__name__, str(layer.through))
        assert (found.T, found.B, found.S) == (9, 2, layer.S) and found.reverse is layer.reverse
        assert found.to_dict() == data["layers"][key]


def test_what_is_not_finite_is_a_string():
    data = overflowing().to_dict()["layers"]["l0"]
    assert data["first_nonfinite"]["kind"] == "inf"
    assert {v for row in data["total_norms"] for v in row if isinstance(v, str)} <= {"inf", "nan"}
    assert any(isinstance(v, str) for row in data["total_norms"] for v in row)
    assert export.plain([-float("inf"), float("nan"), 1e308]) == ["-inf", "nan", 1e308]


def test_all_norms_are_taken_along_only_where_they_are_asked_for():
    flow = FLOWS["float32"]()
    assert flow.to_dict()["layers"]["l0"]["norms"] is None
    assert len(flow.to_dict(norms=True)["layers"]["l0"]["norms"]) == 9


@pytest.mark.parametrize("wrong", [{"version": 2}, {"format": "throughtime.diagnosis"}, {}])
def test_another_format_is_refused_in_words(wrong):
    data = {**FLOWS["a scalar"]().to_dict(), **wrong} if wrong else {}
    with pytest.raises(tt.errors.InputValueError, match="expected data of format"):
        from_dict(data)
