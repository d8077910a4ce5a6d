"""What takes a monitor's numbers somewhere."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from ..history import History
from ..record import Record

__all__ = ["AbstractLogger", "found", "scalars"]


class AbstractLogger(ABC):
    """A place to write to.

    A package that is not installed is never imported to find out: a target is known by what it has.
    """

    # What a warning calls it.
    name: str

    @staticmethod
    @abstractmethod
    def takes(target: Any) -> bool:
        """Check whether a target is this logger's.

        Args:
            target: what was given as ``to=``.
        """

    @abstractmethod
    def __init__(self, target: Any) -> None:
        """Take the target.

        Args:
            target: what was given as ``to=``.
        """

    @abstractmethod
    def write(self, record: Record, history: History) -> None:
        """Write what was measured at one step; whatever it raises is warned of once.

        Args:
            record: the step's.
            history: all so far, this one included.
        """

    def close(self) -> None:
        """Write what has not been written yet; what was given by the user stays open."""
        return


def scalars(record: Record) -> dict[str, float]:
    """Return the values that are numbers: loggers complain of the others.

    Args:
        record: of one step.
    """
    return {name: value for name, value in record.values.items() if value - value == 0}


def found(record: Record) -> str:
    """Return what was found in a few words.

    Args:
        record: of one step.
    """
    named = [f.code + (f" in {f.layer}" if f.layer else "") for f in record.findings]
    return ", ".join(named) or "nothing"
