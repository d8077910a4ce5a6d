"""Models under `torch.compile`, run as they are written while a trace watches."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["uncompiled"]


@contextmanager
def uncompiled() -> Iterator[None]:
    """Run compiled functions and modules uncompiled within a block.

    Where nothing was compiled nothing is done: asking torch would import its compiler, which takes
    a second.
    """
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
