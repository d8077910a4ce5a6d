"""Where a monitor writes to: one class a logger, and one row each."""

from __future__ import annotations

from typing import Any

from ...errors import InputTypeError
from .base import AbstractLogger
from .function import Function
from .jsonl import JsonLines
from .metrics import Accelerator, LightningLogger
from .mlflow import MLflow
from .tensorboard import TensorBoard
from .wandb import WandB

__all__ = ["LOGGERS", "AbstractLogger", "loggers"]

# The first that takes a target has it. None of these imports another package to find out.
LOGGERS: tuple[type[AbstractLogger], ...] = (
    JsonLines,
    TensorBoard,
    WandB,
    MLflow,
    LightningLogger,
    Accelerator,
    Function,
)


def loggers(to: Any) -> list[AbstractLogger]:
    """Return what writes to one target, or to each of several.

    Args:
        to: a target, a list or tuple of some, or None.

    Raises:
        InputTypeError: a target that is none of these.
    """
    if to is None:
        return []
    if isinstance(to, list | tuple):
        return [logger for one in to for logger in loggers(one)]
    for logger in LOGGERS:
        if logger.takes(to):
            return [logger(to)]
    raise InputTypeError(
        "to= must be a path (JSON lines), a SummaryWriter, a Weights & Biases run, mlflow or a run "
        "of it, a Lightning logger, an Accelerator, a function, or a list of these; got "
        f"{type(to).__name__}."
    )
