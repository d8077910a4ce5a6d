"""To a logger of a framework: Lightning's, or what Accelerate tracks with."""

from __future__ import annotations

from typing import Any

from ..history import History
from ..record import Record
from .base import AbstractLogger, scalars

__all__ = ["Accelerator", "LightningLogger"]


class LightningLogger(AbstractLogger):
    """Writes by a Lightning logger, whatever it writes to."""

    name = "the Lightning logger"

    @staticmethod
    def takes(target: Any) -> bool:
        """Check whether it is a Lightning logger, by its methods.

        Args:
            target: what was given as ``to=``.
        """
        return callable(getattr(target, "log_metrics", None)) and hasattr(target, "save_dir")

    def __init__(self, target: Any) -> None:
        """Take the logger.

        Args:
            target: a Lightning logger.
        """
        self._logger = target

    def write(self, record: Record, history: History) -> None:
        """Log the numbers.

        Args:
            record: the step's.
            history: not used.
        """
        del history
        self._logger.log_metrics(scalars(record), step=record.step)


class Accelerator(AbstractLogger):
    """Writes to whatever an ``Accelerator`` tracks with."""

    name = "Accelerate"

    @staticmethod
    def takes(target: Any) -> bool:
        """Check whether it is an ``Accelerator``, or one of its trackers.

        Args:
            target: what was given as ``to=``.
        """
        ours = type(target).__module__.partition(".")[0] == "accelerate"
        return ours and callable(getattr(target, "log", None))

    def __init__(self, target: Any) -> None:
        """Take the accelerator.

        Args:
            target: an ``Accelerator`` or a tracker.
        """
        self._to = target

    def write(self, record: Record, history: History) -> None:
        """Log the numbers.

        Args:
            record: the step's.
            history: not used.
        """
        del history
        self._to.log(scalars(record), step=record.step)
