"""Fixtures of the core's tests: one thread, and the same numbers in every run."""

from __future__ import annotations

import pytest
import torch


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
    from throughtime import kernels

    with kernels.use("reference"):
        yield
