"""What `make integrations` says first: which packages it ran, in which versions."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

PACKAGES = (
    "torch", "tensorboard", "lightning", "pytorch-ignite", "accelerate", "wandb", "mlflow-skinny",
    "anywidget", "jupyterlab",
)  # fmt: skip


def pytest_report_header() -> list[str]:
    return [f"package {name}: {_version(name)}" for name in PACKAGES]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed, its tests are skipped"
