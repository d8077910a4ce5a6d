"""Everything here is float64: a gradient through time is compared term by term."""

import pytest


@pytest.fixture(autouse=True)
def all_in_float64(float64: None) -> None:
    """Take the fixture for every test of this folder."""
