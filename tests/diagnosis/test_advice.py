"""Advice looks at what is there already: biases that are set, input that is not scaled."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

import throughtime as tt
from throughtime.diagnosis.gate_biases import kept_by_biases
from throughtime.remedies import chrono_, forget_bias_


def flow_of(rnn: nn.Module, scale: float = 1.0, T: int = 80, shift: float = 0.0) -> tt.Flow:
    x = shift + scale * torch.randn(T, 8, 4)
    with tt.trace(rnn) as trace:
        loss = rnn(x)[0][-1].pow(2).mean()
    return trace.flow(loss)


def vanishing(flow: tt.Flow, **asked: int) -> tt.Finding:
    (found,) = (one for one in tt.examine(flow, **asked) if one.code == "vanishes")
    return found


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("asked", [{}, {"lag": 70}])
def test_biases_that_are_chronos_are_not_advised_again(kind, asked):
    torch.manual_seed(0)
    rnn = chrono_(kind(4, 32), longest=80)
    with torch.no_grad():
        rnn.weight_ih_l0 *= 12  # so that the gates are closed by what they read
    found = vanishing(flow_of(rnn), **asked)
    assert re.search(r"already keep for up to [67]\d steps", found.remedy) and found.fix is None
    assert "set the gate biases" not in found.remedy and "close the gates" in found.remedy


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.LSTM(4, 32),
        lambda: nn.GRU(4, 32),
        lambda: nn.LSTM(4, 32, bias=False),
        lambda: forget_bias_(nn.LSTM(4, 32)),
        lambda: chrono_(nn.LSTM(4, 32), longest=15),  # a fifth of what these steps need
    ],
)
def test_biases_that_keep_for_less_are_advised(make):
    torch.manual_seed(0)
    found = vanishing(flow_of(make()))
    assert found.fix == "chrono" and "set the gate biases" in found.remedy


def test_the_verdicts_advice_does_not_ask_for_them_either():
    torch.manual_seed(0)
    flow = flow_of(nn.LSTM(4, 32))
    assert "Set the gate biases" in tt.diagnose(flow)["l0"].advice
    rnn = chrono_(nn.LSTM(4, 32), longest=80)
    with torch.no_grad():
        rnn.weight_ih_l0 *= 12
    told = tt.diagnose(flow_of(rnn))["l0"]
    assert told.verdict is tt.Verdict.VANISHING
    assert "already keep for up to" in told.advice and "Set the gate" not in told.advice


def test_what_biases_keep_is_one_over_what_the_gate_forgets():
    cell = tt.cells.LSTM(2, 10, dtype=torch.float64)
    with torch.no_grad():
        cell.bias_ih[10:20], cell.bias_hh[10:20] = 1.0, 1.5
    f = torch.tensor(2.5, dtype=torch.float64).sigmoid()
    assert kept_by_biases(cell) == pytest.approx(float(1 / (1 - f)), rel=1e-12)
    assert kept_by_biases(tt.cells.LSTM(2, 10, bias=False)) == 0.0
    assert kept_by_biases(tt.cells.Elman(2, 10)) == kept_by_biases(None) == 0.0


def test_large_input_is_not_what_a_default_layer_does():
    torch.manual_seed(0)
    rnn = nn.LSTM(4, 32)
    assert "as that of a default LSTM of this size does" in vanishing(flow_of(rnn)).what
    found = tt.examine(flow_of(rnn, scale=500, shift=30_000))
    assert found[0].code == "input-scale"
    assert not any("default LSTM" in one.what for one in found)
