"""What every test and every example in a docstring gets: one thread, one seed, `torch` and `tt`."""

from __future__ import annotations

import gc
import os

# Two workers with a thread pool each on two cores only wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
# Where a test asks for more, the pool would spin between two calls, on the other worker's core.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import pytest
import torch

import throughtime as tt

torch.set_num_threads(1)
SEED = torch.manual_seed if torch.cuda.is_available() else torch.default_generator.manual_seed
# Triton reads it when it is imported: without a GPU its kernels run in the interpreter.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# What is for one package alone has its tests in tests/integrations; importing that package is slow.
collect_ignore = [
    "src/throughtime/watch/lightning.py",
    "src/throughtime/watch/ignite.py",
    "src/throughtime/explore/widget.py",
]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the whole suite run on either backend: ``--kernels reference``."""
    parser.addoption("--kernels", default="auto", choices=("auto", "native", "reference"))


def pytest_configure(config: pytest.Config) -> None:
    """Choose the backend, and say which it is."""
    tt.kernels.use(config.getoption("--kernels"))


def pytest_report_header(config: pytest.Config) -> str:
    """Say what runs."""
    found = tt.kernels.available()
    runs = f"{found.isa}" if found.native else f"none, because {found.reason}"
    return f"kernels: {config.getoption('--kernels')} (compiled: {runs})"


def pytest_collection_finish() -> None:
    """Leave the tests themselves, some million objects, out of every garbage collection."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def seed() -> None:
    """Make random weights and inputs the same in every run and in every order of the tests."""
    # torch.manual_seed writes down the whole stack once for every kind of device that is not there.
    SEED(0)


@pytest.fixture(autouse=True)
def names_for_docstrings(doctest_namespace: dict[str, object]) -> None:
    """Let the examples in docstrings begin where a reader's session would."""
    doctest_namespace.update(torch=torch, tt=tt)
