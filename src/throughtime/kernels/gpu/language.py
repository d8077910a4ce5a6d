"""Triton, where it is installed; without it the kernels are functions that nobody calls."""

from __future__ import annotations

import os
from typing import Any

__all__ = ["INTERPRETED", "jit", "tl"]

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
