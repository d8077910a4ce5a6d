"""The clinic as a judge would hold it: forms that nobody had in mind when findings were written."""

from __future__ import annotations

import pytest

import throughtime as tt

from . import (
    clinic_again,
    clinic_alike,
    clinic_apart,
    clinic_numbers,
    clinic_reaching,
    clinic_wired,
)
from .test_clinic import FIXES

FILES = (
    clinic_numbers,
    clinic_wired,
    clinic_reaching,
    clinic_again,
    clinic_alike,
    clinic_apart,
)
CASES = [case for file in FILES for case in file.CASES]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_right_cause_comes_first(case):
    found = tt.examine(case.run())
    said = [(f.code, f.severity) for f in found]
    if not case.expect:
        assert not [s for s in said if s[1] != "note"], said
        return
    assert said and said[0][0] in case.expect, said
    for finding in found:
        assert finding.what.endswith((".", "?")) and finding.remedy.endswith(".")
        assert finding.fix is None or finding.fix in FIXES
        assert finding.evidence and any(e.decides for e in finding.evidence)
    assert max(map(len, repr(found).splitlines())) <= 80
    if case.fix is not None:
        left = [f.code for f in tt.examine(case.fix()) if f.code in case.expect]
        assert not left


def test_a_symptom_is_told_to_wait_for_its_cause():
    found = tt.examine(clinic_wired.last_state_of_padded_texts())
    assert [f.code for f in found] == ["reads-padding", "vanishes"]
    assert found[1].follows == "reads-padding" and found[1].fix is None
    assert "reads-padding first" in found[1].remedy
