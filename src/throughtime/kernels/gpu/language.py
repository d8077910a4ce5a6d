"""Triton, where it is installed; without it the kernels are functions that nobody calls."""

from __future__ import annotations

import os
from typing import Any

__all__ = ["INTERPRETED", "jit", "part", "tl"]

try:
    import triton
    import triton.language as tl

    jit: Any = triton.jit
except ImportError:
    tl: Any = None

    def jit(kernel: Any = None, **_: Any) -> Any:
        """Return the kernel as it is."""
        return kernel or (lambda kernel: kernel)


# Triton reads it when a kernel is defined: then kernels run in NumPy, on tensors of the CPU.
INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"


def part(function: Any) -> Any:
    """Return a function that kernels call; the interpreter calls it as Python does, in half the time."""
    return function if INTERPRETED else jit(function)
