"""Folders that are written whole or not at all, as `throughtime.files` writes files."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from ...errors import FileError
from ...files import PART

__all__ = ["check_can_be_folder", "clear_partial_folders", "writing_folder"]


@contextlib.contextmanager
def writing_folder(path: Path) -> Iterator[Path]:
    """Lend an empty folder, which gets the path's name at the end of the block.

    Where the block raises, the lent folder is removed. Whoever looks for the path, also after
    ``kill -9``, finds nothing or all of it.

    Args:
        path: where it goes. There must be nothing yet; the folder around it is made.

    Yields:
        The folder to write into.

    Raises:
        FileError: it cannot be written, or there is something of that name.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with writing_folder(Path(tempfile.mkdtemp(), "a")) as part:
        ...     _ = (part / "b.txt").write_text("whole")
        >>> [file.name for file in part.with_name("a").iterdir()], part.exists()
        (['b.txt'], False)
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            raise FileError(f"cannot write {path}: there is something of that name.")
        part, lock = _lend(path)
        try:
            yield part
            for written in (*part.iterdir(), part):
                _sync(written)
            os.rename(part, path)
        finally:
            shutil.rmtree(part, ignore_errors=True)
            os.close(lock)
        _sync(path.parent)
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"cannot write {path}: {error.strerror or error}.") from error


def check_can_be_folder(path: Path) -> None:
    """Check that a folder is there, or can be made: that no file is in its way.

    Args:
        path: of the folder.

    Raises:
        FileError: there is a file, or no right to write.
    """
    there = path
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise FileError(f"{path} can be no folder: {there} is a file.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise FileError(f"cannot write into {there}, which {path} is to be made in.")


def clear_partial_folders(folder: Path) -> list[Path]:
    """Remove the parts that killed processes left in a folder; one that is being written stays.

    Args:
        folder: where to look. One that is not there holds none.

    Returns:
        What was removed.
    """
    removed = []
    with contextlib.suppress(OSError):
        for part in list(folder.iterdir()):
            if PART.fullmatch(part.name) and part.is_dir() and _abandoned(part):
                shutil.rmtree(part, ignore_errors=True)
                removed.append(part)
    return removed


def _lend(path: Path) -> tuple[Path, int]:
    """Make a part, and return it with the handle that locks it."""
    while True:
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        part.mkdir()
        lock = os.open(part, os.O_RDONLY | os.O_DIRECTORY)
        with contextlib.suppress(OSError):  # a file system without locks has no clearing either
            fcntl.flock(lock, fcntl.LOCK_EX)
        if part.exists():
            return part, lock
        os.close(lock)  # somebody cleared it between the calls above


def _abandoned(part: Path) -> bool:
    """Check whether nobody is writing a part."""
    with contextlib.suppress(OSError):
        handle = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        finally:
            os.close(handle)
    return False


def _sync(path: Path) -> None:
    """Make what was written outlast a power cut, where the file system can."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
