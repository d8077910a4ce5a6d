"""What is printed of a flow, of verdicts and of findings: short, plain, within 80 columns."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import throughtime as tt

from .clinic_cases import CASES


class Deep(nn.Module):
    """A layer under a long name."""

    def __init__(self):
        super().__init__()
        self.encoder_of_the_left_hand_side_of_sentences = nn.LSTM(3, 8, bidirectional=True)

    def forward(self, x):
        return self.encoder_of_the_left_hand_side_of_sentences(x)[0]


@pytest.mark.parametrize("case", CASES[::4], ids=lambda case: case.name)
def test_nothing_is_wider_than_80_columns_and_no_wall_of_evidence(case):
    flow = case.run()
    judged, found = tt.diagnose(flow), tt.examine(flow)
    for shown in (repr(flow), repr(judged), repr(found), *map(str, judged.values())):
        assert max(map(len, shown.splitlines())) <= 80
        for word in ("Evidence(", "eq. ", "stands beside", "nats", "relative to lag 0", "…"):
            assert word not in shown
    assert isinstance(judged, dict) and isinstance(found, list)
    if found:
        assert found[0].code in repr(flow) and found[0].code in repr(found)
        words = found[0].what.split()[:6]
        assert " ".join(words) in " ".join(repr(flow).split())


def test_long_names_are_folded_not_cut():
    torch.manual_seed(0)
    model = Deep()
    with tt.trace(model) as trace:
        losses = model(torch.randn(30, 2, 3)).pow(2).mean((1, 2))
    flow = trace.flow(losses)
    for shown in (repr(flow), repr(tt.diagnose(flow))):
        assert all(name in shown for name in flow)
        assert max(map(len, shown.splitlines())) <= 80


def test_units_are_counted_not_state():
    model = nn.LSTM(3, 32)
    with tt.trace(model) as trace:
        losses = model(torch.randn(9, 2, 3))[0].pow(2).mean((1, 2))
    assert repr(trace) == "Trace(1 recurrent call)"
    header, _, row, *_ = repr(trace.flow(losses)).splitlines()
    assert row.split()[header.split().index("units")] == "32"


def test_a_diagnosis_shows_itself_in_a_notebook():
    model = nn.RNN(3, 16)
    with tt.trace(model) as trace:
        loss = model(torch.randn(80, 2, 3))[0][-1].pow(2).mean()
    shown = tt.diagnose(trace.flow(loss))._repr_html_()
    assert shown.startswith("<table>") and "VANISHING" in shown
