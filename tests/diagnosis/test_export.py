"""A diagnosis as plain data: it goes through strict JSON and comes back equal."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn

import throughtime as tt


def judged(*, broken: bool) -> tt.Diagnosis:
    torch.manual_seed(0)
    model = nn.RNN(3, 4)
    x = torch.randn(40, 3, 3)
    if broken:
        x[5, 1] = math.inf
    with tt.trace(model) as trace:
        losses = model(x)[0].pow(2).mean((1, 2))
    return tt.diagnose(trace.flow(losses))["l0"]


def test_a_verdict_comes_back_from_json_with_all_its_evidence():
    diagnosis = judged(broken=False)
    data = json.loads(json.dumps(diagnosis.to_dict(), allow_nan=False))
    assert (data["format"], data["version"]) == ("throughtime.diagnosis", 1)
    assert data["verdict"] == "VANISHING" and data["evidence"][0]["decides"] is True
    assert tt.Diagnosis.from_dict(data) == diagnosis


def test_what_is_not_finite_comes_back_as_a_number():
    diagnosis = judged(broken=True)
    assert diagnosis.verdict is tt.Verdict.NONFINITE
    data = json.loads(json.dumps(diagnosis.to_dict(), allow_nan=False))
    read = tt.Diagnosis.from_dict(data)
    assert data["evidence"][0]["threshold"] == "inf"
    assert [str(evidence) for evidence in read.evidence] == [str(e) for e in diagnosis.evidence]
    assert read.shares == diagnosis.shares


def test_an_evidence_without_a_threshold_keeps_it_so():
    evidence = tt.Evidence("β_W·β_f", 2.0, None, "every step", "eq. 6")
    assert tt.Evidence.from_dict(evidence.to_dict()) == evidence


def test_another_version_is_refused_in_words():
    data = {**judged(broken=False).to_dict(), "version": 0}
    with pytest.raises(tt.errors.InputValueError, match="version 1; got"):
        tt.Diagnosis.from_dict(data)
