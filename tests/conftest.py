"""Fixtures of the tests: where the shared texts lie, and how Hypothesis draws."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"

# The same examples in every run: a failure in CI is a failure at home.
settings.register_profile("project", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("project")


@pytest.fixture(scope="session")
def root() -> Path:
    """Give the project's root."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Give the folder of real texts beside the project, or skip the test and say so."""
    if not SHARED.is_dir():
        pytest.skip("no ../shared/data beside the project: this test needs its real texts")
    return SHARED
