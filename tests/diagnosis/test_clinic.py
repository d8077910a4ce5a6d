"""The clinic: every model's mistake is found, first, and sound models raise no alarm."""

from __future__ import annotations

import importlib.util
import re
import sys

import pytest

import throughtime as tt

from .clinic_cases import CASES
from .clinic_loops import CASES as LOOPS
from .clinic_more import CASES as MORE

# Names in the table of remedies.
FIXES = ("chrono", "clip", "dtype", "gated-cell", "lengths", "orthogonal", "standardise")


def shared_cases(root):
    """Return the cases beside the project, or none."""
    path = root.parent / "shared" / "clinic" / "cases.py"
    if not path.is_file():
        pytest.skip("no ../shared/clinic beside the project")
    spec = importlib.util.spec_from_file_location("shared_cases", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.CASES


def reads_as_sentences_on_whole_evidence(finding) -> None:
    assert finding.what.endswith((".", "?")) and finding.remedy.endswith(".")
    assert finding.severity in ("error", "warning", "note")
    assert finding.fix is None or finding.fix in FIXES
    assert finding.evidence and any(e.decides for e in finding.evidence)
    for e in finding.evidence:
        assert e.quantity and e.where and re.fullmatch(r"eq\. \d+", e.equation)


def judge(case) -> None:
    """Check a case: its code comes first and says why, a sound one is left alone, a fix helps."""
    found = tt.examine(case.run())
    said = [(f.code, f.severity) for f in found]
    if not case.expect:
        assert not [s for s in said if s[1] != "note"], said
        return
    assert said and said[0][0] in case.expect, said
    for finding in found:
        reads_as_sentences_on_whole_evidence(finding)
    if case.fix is not None:
        left = [f.code for f in tt.examine(case.fix()) if f.code in case.expect]
        assert not left


@pytest.mark.parametrize("case", (*CASES, *MORE, *LOOPS), ids=lambda case: case.name)
def test_the_right_cause_comes_first(case):
    judge(case)


def test_the_cases_beside_the_project(root):
    for case in shared_cases(root):
        judge(case)
