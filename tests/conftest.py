"""Fixtures of the tests: the shared texts, Hypothesis, threads, dtype and backend."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from throughtime import kernels

# Their asserts say what came, as a test's own do.
pytest.register_assert_rewrite("oracles")

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


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Let the workers share the cores, whatever a test sets for itself."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def float64() -> Iterator[None]:
    """Compute in float64 where nothing else is said: a gradient is compared term by term."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def reference() -> Iterator[None]:
    """Run the sweeps in plain torch, whatever kernels are compiled."""
    with kernels.use("reference"):
        yield


@pytest.fixture(params=["auto", "reference"])
def each_kernel(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run the test by the compiled sweeps, where there are any, and by those in plain torch."""
    if request.param == "auto" and not kernels.available().native:
        pytest.skip(f"no compiled kernels: {kernels.available().reason}")
    with kernels.use(request.param):
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that no worker waits for them at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
