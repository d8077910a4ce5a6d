"""Fixtures of the cells' tests: one thread, and the same weights whatever ran before."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread_and_seed():
    """Let the workers share the cores, and draw the same weights in every run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)
