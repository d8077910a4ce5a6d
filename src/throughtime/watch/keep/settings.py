"""What decides which bits come out of a step: versions, and torch's settings."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from typing import Any

import torch

__all__ = ["settings_now", "settings_of", "versions"]


def versions() -> dict[str, str]:
    """Return the versions that decide whether a replay has the same bits."""
    try:
        own = installed("throughtime")
    except PackageNotFoundError:
        own = "unknown"
    return {
        "throughtime": own,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def settings_now() -> dict[str, Any]:
    """Return those of torch's settings that decide which bits come out, as plain data."""
    kinds = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    return {
        "threads": torch.get_num_threads(),
        "dtype": str(torch.get_default_dtype()).removeprefix("torch."),
        "matmul": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "autocast": {
            kind: str(torch.get_autocast_dtype(kind)).removeprefix("torch.")
            for kind in kinds
            if torch.is_autocast_enabled(kind)
        },
    }


@contextmanager
def settings_of(said: Mapping[str, Any] | None) -> Iterator[None]:
    """Set what `settings_now` returned when the step was taken, for as long as the block lasts."""
    if said is None:
        yield
        return
    with undisturbed_settings(), ExitStack() as stack:
        torch.set_num_threads(said["threads"])
        torch.set_default_dtype(getattr(torch, said["dtype"]))
        torch.set_float32_matmul_precision(said["matmul"])
        here = {"cpu", *(["cuda"] if torch.cuda.is_available() else [])}
        for kind, dtype in said["autocast"].items():
            if kind not in here:
                continue
            stack.enter_context(torch.autocast(kind, getattr(torch, dtype)))
        yield


@contextmanager
def undisturbed_settings() -> Iterator[None]:
    """Put torch's settings back at the end, and leave what was drawn meanwhile."""
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    matmul = torch.get_float32_matmul_precision()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
        torch.set_float32_matmul_precision(matmul)
