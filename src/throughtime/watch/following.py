"""A training's file of JSON lines, read while it is being written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import FileError, InputValueError
from .record import Record

__all__ = ["Following"]

# The beginning of a file tells whether it is still the same one.
HEAD = 256
# No more than so many bytes are read at a time: a look must not take long.
MOST = 32 * 2**20
# What no file is: the next one of that name is another.
GONE = (-1, -1)


class Following:
    r"""Reads what is new in a file, which may not be there yet, be cut anywhere, or begin anew.

    Attributes:
        path: of the file.
        there: whether it was there at the last look.
        skipped: how many whole lines were no records.
        begun: how often it began anew: it was emptied, or another file has its name.
        cut: whether it ends in the middle of a line.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp(), "run.jsonl")
        >>> following = Following(file)
        >>> following.new(), following.there
        ([], False)
        >>> _ = file.write_text('{"version": 1, "step": 1}\n{"version": 1, "ste')
        >>> [record.step for record in following.new()], following.cut
        ([1], True)
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Take the path; nothing is read yet."""
        self.path = Path(path)
        self.there, self.skipped, self.begun = False, 0, 0
        self._rest, self._head, self._at = b"", b"", 0
        self._who: tuple[int, int] | None = None

    @property
    def cut(self) -> bool:
        """Whether the file ends in the middle of a line."""
        return bool(self._rest)

    def new(self) -> list[Record]:
        """Return the records that were not read yet, of so many bytes at most.

        Raises:
            FileError: the file is a folder, or may not be read.
        """
        return [record for line in self._look() if (record := self._read(line)) is not None]

    def rest(self) -> Iterator[Record]:
        """Yield all records up to the file's end, when nothing more will follow.

        The last line needs no end; where it is none, it was cut.

        Raises:
            FileError: there is no such file, or it cannot be read.
        """
        at = -1
        while at != self._at:
            at = self._at
            yield from self.new()
        if not self.there:
            raise FileError(f"there is no file {self.path}.")
        try:
            ending = Record.from_line(self._rest)
        except InputValueError:
            return
        self._rest = b""
        yield ending

    def _look(self) -> list[bytes]:
        """Return the whole lines that are new."""
        try:
            with self.path.open("rb") as file:
                self._settle(file)
                file.seek(self._at)
                self.there = True
                return list(self._lines(file.read(MOST)))
        except FileNotFoundError:
            self.there = False
            self._who = self._who and GONE
            return []
        except OSError as error:
            raise FileError(f"cannot read {self.path}: {error.strerror or error}.") from error

    def _settle(self, file: Any) -> None:
        """Begin anew where this is another file, or the same one emptied and written again."""
        held = os.fstat(file.fileno())
        who, head = (held.st_dev, held.st_ino), file.read(HEAD)
        same = who == self._who and held.st_size >= self._at and head.startswith(self._head)
        if self._who is not None and not same:
            self.begun += 1
            self._rest, self._at = b"", 0
        self._who, self._head = who, head

    def _lines(self, content: bytes) -> Iterator[bytes]:
        """Yield the whole lines and keep what has no end yet."""
        self._at += len(content)
        *lines, self._rest = (self._rest + content).split(b"\n")
        if len(self._rest) > MOST:  # no line of ours
            self._rest, self.skipped = b"", self.skipped + 1
        return (line for line in lines if line.strip())

    def _read(self, line: bytes) -> Record | None:
        try:
            return Record.from_line(line)
        except InputValueError:
            self.skipped += 1
            return None
