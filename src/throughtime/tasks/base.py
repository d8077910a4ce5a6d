"""What the tasks have in common: a batch whose time lag is known, and a floor."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Generator, Tensor

from ..errors import InputTypeError, InputValueError

__all__ = ["Batch", "Task", "check_at_least"]


class Batch(NamedTuple):
    """One batch of a task.

    Attributes:
        x: inputs, (T, B, I) of floats or (T, B) of symbol numbers.
        y: targets, (B, ·) for the last step, or (T, B) of symbol numbers, one a step.
        lag: steps between the input that the answer needs and the loss; the longest where there
            are several.
    """

    x: Tensor
    y: Tensor
    lag: int


class Task(Protocol):
    """A problem whose time lag and whose floor are known."""

    @property
    def floor(self) -> float:
        """The loss of the best answer that remembers nothing."""
        ...

    def batch(self, rows: int, generator: Generator | None = None) -> Batch:
        """Draw a batch."""
        ...


def check_at_least(name: str, value: int, least: int) -> None:
    """Raise unless ``value`` is an integer of at least ``least``.

    Raises:
        InputTypeError: it is no integer.
        InputValueError: it is smaller.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputTypeError(f"{name} must be an integer; got {value!r}.")
    if value < least:
        raise InputValueError(f"{name} must be at least {least}; got {value}.")
