"""The clinic by a stranger: kinds of models that nobody of us would think of first."""

from __future__ import annotations

import pytest

from . import clinic_strange, clinic_strange_sound, clinic_strange_wired
from .test_clinic_judge import test_the_right_cause_comes_first as judge

CASES = (*clinic_strange.CASES, *clinic_strange_wired.CASES, *clinic_strange_sound.CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_stranger_is_told_the_cause(case):
    judge(case)
