"""The kernels' own tests choose their backend themselves, whatever the suite runs on."""

from collections.abc import Iterator

import pytest

from throughtime import kernels


@pytest.fixture(autouse=True)
def chosen_by_the_test() -> Iterator[None]:
    """Begin from "auto", and go back to what the suite was given."""
    with kernels.use("auto"):
        yield
