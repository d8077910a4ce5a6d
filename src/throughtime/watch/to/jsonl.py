"""To a file, one line of JSON a step."""

from __future__ import annotations

import os
from typing import Any

from ...errors import FileError
from ..history import History
from ..record import Record
from .base import AbstractLogger

__all__ = ["JsonLines"]


class JsonLines(AbstractLogger):
    """Appends to a file; each line is written whole, by one call.

    A line that a killed run, or a full disk, left without its end is ended first, so that only that
    one is lost.
    """

    name = "the JSON lines"

    @staticmethod
    def takes(target: Any) -> bool:
        """Check whether it is a path.

        Args:
            target: what was given as ``to=``.
        """
        return isinstance(target, str | os.PathLike)

    def __init__(self, target: str | os.PathLike[str]) -> None:
        """Take the path; the file is opened when something is written.

        Args:
            target: of the file; its folder must exist.

        Raises:
            FileError: there is no such folder, it is a folder itself, or has no name.
        """
        self._path, self._file, self._whole = os.fspath(target), -1, True
        if not self._path:
            raise FileError("to='' names no file; give its path.")
        folder = os.path.dirname(self._path) or "."
        if not os.path.isdir(folder):
            raise FileError(
                f"to={self._path!r}: the folder {folder!r} does not exist; make it first."
            )
        if os.path.isdir(self._path):
            raise FileError(f"to={self._path!r} is a folder; name a file in it.")

    def write(self, record: Record, history: History) -> None:
        """Append a line.

        Args:
            record: the step's.
            history: not used.

        Raises:
            FileError: the disk took only a part of it.
        """
        del history
        if self._file < 0:
            self._file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            self._whole = _ends_whole(self._file)
        line = record.line() if self._whole else b"\n" + record.line()
        self._whole = False
        self._whole = os.write(self._file, line) == len(line)
        if not self._whole:
            raise FileError(f"{self._path!r} took only a part of a line; is the disk full?")

    def close(self) -> None:
        """Close the file; a later line opens it again."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _ends_whole(file: int) -> bool:
    """Check whether a file ends with a whole line, or is empty."""
    size = os.fstat(file).st_size
    return size == 0 or os.pread(file, 1, size - 1) == b"\n"
