"""What `make clients` says first: which client it ran, in which version."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

CLIENTS = (
    "torch", "snntorch", "norse", "ncps", "sb3-contrib", "pytorch-forecasting", "torchrl",
)  # fmt: skip


def pytest_report_header() -> list[str]:
    return [f"client {name}: {_version(name)}" for name in CLIENTS]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed, its tests are skipped"
