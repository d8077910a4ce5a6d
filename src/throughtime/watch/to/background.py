"""Work for a logger that may take long, done beside the training."""

from __future__ import annotations

import atexit
import queue
import threading
import time
import weakref
from collections.abc import Callable

from ...errors import FileError

__all__ = ["Background"]

# So much may wait; what comes on top is dropped, and said.
WAITING = 100
# So many seconds the end waits for what has not been sent.
PATIENCE = 10.0


class Background:
    """A thread that does one thing after another.

    What one of them raises is raised by the next call of `put` or `close`, where it can be warned
    of.
    """

    def __init__(self) -> None:
        """Begin without a thread: it starts with the first thing to do."""
        self._queue: queue.Queue[Callable[[], object]] = queue.Queue(WAITING)
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        own = weakref.ref(self)
        self._at_exit = atexit.register(lambda: _end(own()))
        weakref.finalize(self, atexit.unregister, self._at_exit).atexit = False

    def put(self, work: Callable[[], object]) -> None:
        """Have something done.

        Args:
            work: is called in the thread.

        Raises:
            FileError: too much is waiting already.
        """
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(
                target=_work, args=(self._queue, self._note), daemon=True
            )
            self._thread.start()
        try:
            self._queue.put_nowait(work)
        except queue.Full:
            raise FileError(
                f"{WAITING} records wait to be sent, so this one was left out."
            ) from None
        self._raise()

    def close(self) -> None:
        """Wait until all is done, but not for long.

        Raises:
            FileError: it took too long; what is left is dropped.
        """
        until = time.monotonic() + PATIENCE
        while self._queue.unfinished_tasks and time.monotonic() < until:
            time.sleep(0.005)
        self._raise()
        if self._queue.unfinished_tasks:
            raise FileError(f"after {PATIENCE:.0f} s some records had not been sent.")

    def _note(self, error: Exception) -> None:
        self._error = error

    def _raise(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error


def _work(waiting: queue.Queue[Callable[[], object]], note: Callable[[Exception], None]) -> None:
    while True:
        work = waiting.get()
        try:
            work()
        except Exception as error:
            note(error)
        finally:
            waiting.task_done()


def _end(background: Background | None) -> None:
    if background is not None:
        try:
            background.close()
        except Exception:  # at exit there is nobody left to tell
            return
