"""Activation checkpointing inside a trace: what the layers keep is kept whole."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.utils import checkpoint

from ..errors import UnsupportedError
from .stance import ForAll

__all__ = ["kept_whole", "refuse_reentrant"]


def kept_whole() -> AbstractContextManager[None]:
    """Let non-reentrant checkpointing keep its activations within a block.

    It would run the model again during each of the flow's backward passes, after the trace, when
    the layers no longer record. Results are the same; memory is that without checkpointing.
    """
    return WHOLE.block()


def _keep_whole() -> Callable[[], object]:
    name = "_checkpoint_without_reentrant_generator"
    before = getattr(checkpoint, name)

    def plainly(*args: Any, **named: Any) -> Iterator[None]:
        yield

    setattr(checkpoint, name, plainly)

    def undo() -> None:
        if getattr(checkpoint, name) is plainly:
            setattr(checkpoint, name, before)

    return undo


WHOLE = ForAll(_keep_whole)


def refuse_reentrant(path: str) -> None:
    """Raise where a recurrent layer runs inside a reentrant checkpoint, which hides its graph.

    Raises:
        UnsupportedError: it does.
    """
    if torch.is_grad_enabled():
        return
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_name == "forward" and code.co_filename == checkpoint.__file__:
            raise UnsupportedError(
                f"{path or 'the model'} runs inside checkpoint(..., use_reentrant=True), which "
                "hides its graph from a trace; pass use_reentrant=False."
            )
        frame = frame.f_back
