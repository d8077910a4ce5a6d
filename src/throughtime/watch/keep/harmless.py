"""What goes wrong in a watcher is told once and never stops the training."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from ...errors import KeepWarning
from ..telling import warn

__all__ = ["harmless"]

F = TypeVar("F", bound=Callable[..., Any])


class Closing(Protocol):
    """A watcher that can end.

    Attributes:
        closed: whether it has ended.
    """

    closed: bool

    def close(self, settle: bool = True) -> None:
        """End."""


def harmless(function: F) -> F:
    """Let a failure of a method end its watcher, with one warning, and never the training.

    Args:
        function: a method that returns nothing; of a watcher that has ended it is not called.
    """

    @functools.wraps(function)
    def guarded(self: Closing, *args: Any, **named: Any) -> None:
        if self.closed:
            return
        try:
            function(self, *args, **named)
        except KeepWarning:  # where warnings are errors
            raise
        except Exception as error:
            self.close(settle=False)
            warn(
                "the training goes on, but is no longer watched for numbers that are not finite: "
                f"{type(error).__name__}: {error}",
                KeepWarning,
            )

    return guarded  # pyright: ignore[reportReturnType]
