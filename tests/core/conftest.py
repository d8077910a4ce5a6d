"""Fixtures of the core's tests: one thread, and the same numbers in every run."""

from __future__ import annotations

import pytest
import torch

from throughtime import kernels


@pytest.fixture(autouse=True)
def one_thread_and_seed():
    """Let the workers share the cores, and draw the same weights whatever ran before."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def reference():
    """Run the sweeps in plain torch, whatever kernels are compiled."""
    with kernels.use("reference"):
        yield


@pytest.fixture(params=["auto", "reference"])
def each_kernel(request):
    """Run the test by the compiled sweeps, where there are any, and by those in plain torch."""
    if request.param == "auto" and not kernels.available().native:
        pytest.skip(f"no compiled kernels: {kernels.available().reason}")
    with kernels.use(request.param):
        yield
