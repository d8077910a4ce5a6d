"""Triton, where it is installed; without it the kernels are functions that nobody calls."""

from __future__ import annotations

import os
from typing import Any

__all__ = ["INTERPRETED", "OutOfResources", "jit", "part", "tl"]


def _as_it_is(kernel: Any = None, **_: Any) -> Any:
    """Return a kernel as it is, since there is no Triton to compile it."""
    return kernel or _as_it_is


jit: Any = _as_it_is
OutOfResources: Any = MemoryError  # what Triton raises where a program does not fit a device
try:
    import triton  # pyright: ignore[reportMissingImports]
    import triton.language as tl  # pyright: ignore[reportMissingImports]
    import triton.runtime.errors  # pyright: ignore[reportMissingImports]

    jit, OutOfResources = triton.jit, triton.runtime.errors.OutOfResources
except ImportError:
    tl = None


# Triton reads it when a kernel is defined: then kernels run in NumPy, on tensors of the CPU.
INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"


def part(function: Any) -> Any:
    """Return a function that kernels call; the interpreter calls it as Python does, and faster."""
    return function if INTERPRETED else jit(function)
