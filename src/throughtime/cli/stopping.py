"""Ctrl-C and SIGTERM in a training: the update at hand is finished, and what was learnt is kept."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

__all__ = ["Stop"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """A question that a training asks between updates: shall it end here?

    Inside the block the first signal makes the answer True; a second Ctrl-C ends the program at
    once. After `kept`, when nothing can be lost any more, the first signal ends it.

    Attributes:
        name: of the signal that came, such as "SIGTERM", or None.

    Example:
        >>> with Stop() as stop:
        ...     before = stop()
        ...     signal.raise_signal(signal.SIGTERM)
        ...     print(before, stop(), stop.name, stop.code)
        False True SIGTERM 0
    """

    def __init__(self) -> None:
        """Wait for nothing yet."""
        self.name: str | None = None
        self._kept = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():  # no other may set handlers
            self._before = {one: signal.signal(one, self._came) for one in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for one, handler in self._before.items():
            signal.signal(one, handler)

    def __call__(self) -> bool:
        """Return whether a signal has come."""
        return self.name is not None

    @property
    def code(self) -> int:
        """The exit code: SIGTERM is how a machine asks for an orderly end, and gets one."""
        return 130 if self.name == "SIGINT" else 0

    def kept(self) -> None:
        """Let the next signal end the program at once: what was trained is on the disk."""
        self._kept = True

    def _came(self, number: int, _: FrameType | None) -> None:
        again, self.name = self.name is not None, signal.Signals(number).name
        if number == signal.SIGINT and (again or self._kept):
            raise KeyboardInterrupt
        if self._kept and not again:
            raise SystemExit(0)
