"""To any function."""

from __future__ import annotations

from typing import Any

from ..history import History
from ..record import Record
from .base import AbstractLogger

__all__ = ["Function"]


class Function(AbstractLogger):
    """Calls a function with each record as plain data, as a line of the JSON lines holds it."""

    name = "the function given as to="

    @staticmethod
    def takes(target: Any) -> bool:
        """Check whether it can be called.

        Args:
            target: what was given as ``to=``.
        """
        return callable(target)

    def __init__(self, target: Any) -> None:
        """Take the function.

        Args:
            target: called with a dictionary.
        """
        self._call = target

    def write(self, record: Record, history: History) -> None:
        """Call it.

        Args:
            record: the step's.
            history: not used.
        """
        del history
        self._call(record.to_dict())
