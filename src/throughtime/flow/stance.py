"""What a trace changes in torch itself: models under `torch.compile` run as they are written."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

__all__ = ["ForAll", "uncompiled"]


class ForAll:
    """One change to torch for all blocks that want it, undone when the last of them ends.

    Traces may end in any order, also in several threads: put back by each, what one of them found
    could be another one's.
    """

    def __init__(self, change: Callable[[], Callable[[], object]]) -> None:
        """Take what makes the change, and returns what undoes it."""
        self._change, self._lock, self._blocks = change, threading.Lock(), 0
        self._undo: Callable[[], object] = object

    @contextmanager
    def block(self) -> Iterator[None]:
        """Have the change made within a block."""
        with self._lock:
            if not self._blocks:
                self._undo = self._change()
            self._blocks += 1
        try:
            yield
        finally:
            with self._lock:
                self._blocks -= 1
                if not self._blocks:
                    self._undo()


def _force_eager() -> Callable[[], object]:
    stance = torch.compiler.set_stance("force_eager")
    return lambda: stance.__exit__(None, None, None)  # pyright: ignore


EAGER = ForAll(_force_eager)


@contextmanager
def uncompiled() -> Iterator[None]:
    """Run compiled functions and modules uncompiled within a block.

    Where nothing was compiled nothing is done: asking torch would import its compiler, which takes
    a second.
    """
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with EAGER.block():
        yield
