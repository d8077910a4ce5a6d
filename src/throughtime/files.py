"""Files that are written whole or not at all: what this package writes goes through here.

It goes to ``.NAME.XXXXXXXX.part`` beside the file, which then takes the file's place: whoever reads
the file, also after a crash or ``kill -9``, finds the old one or the new one. A writer holds a lock
on its part, so that what a killed process left can be told from what is being written, and removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import fnmatch
import glob
import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

from .errors import FileError, InputTypeError

__all__ = ["check_writable", "clear_partial", "write_whole", "writing"]

PART = re.compile(r"\.(.+)\.[0-9a-f]{8}\.part", re.DOTALL)
LONGEST = 200  # bytes of a file's name that its part's name repeats; a file system allows 255


def write_whole(path: str | os.PathLike[str], data: bytes | memoryview | str) -> Path:
    """Write a file whole or not at all.

    Args:
        path: where it goes; its folder must exist. A file that is there is replaced.
        data: its content; text is written in UTF-8, with "?" for what that cannot say.

    Returns:
        The path.

    Raises:
        FileError: it cannot be written; what was there before is still there.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_whole(folder / "a.txt", "whole").read_text()
        'whole'
        >>> [path.name for path in folder.iterdir()]
        ['a.txt']
    """
    content = data.encode("utf-8", errors="replace") if isinstance(data, str) else data
    with writing(path) as part:
        part.write_bytes(content)
    return Path(path)


@contextlib.contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Lend an empty file, which takes the path's place at the end of the block.

    Where the block raises, what was there before stays, and the lent file is removed. First, what
    killed processes left of this path is removed. A device or a pipe is lent as it is.

    Args:
        path: where it goes; its folder must exist.

    Yields:
        The path to write to.

    Raises:
        FileError: it cannot be written.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with writing(folder / "weights.pt") as part:
        ...     torch.save({"w": torch.ones(2)}, part)
        >>> torch.load(folder / "weights.pt")["w"]
        tensor([1., 1.])
    """
    with _saying(path):
        target = _target(path)
        if _stream(target):
            yield target
            return
        _clear(target)
        part, lock = _lend(target)
        try:
            yield part
            with part.open("rb") as written:  # by name: the block may have put a new file there
                os.fsync(written.fileno())
            os.replace(part, target)
        finally:
            with contextlib.suppress(OSError):
                part.unlink()
            os.close(lock)
        _sync_folder(target.parent)


def clear_partial(folder: str | os.PathLike[str], pattern: str = "*") -> list[Path]:
    """Remove the parts that killed processes left in a folder; one that is being written stays.

    Args:
        folder: where to look, not in the folders below. One that is not there holds none.
        pattern: of the names that the parts were to get, such as "*.pt".

    Returns:
        What was removed.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> (folder / ".a.pt.0123abcd.part").touch()
        >>> [path.name for path in clear_partial(folder, "*.pt")]
        ['.a.pt.0123abcd.part']
    """
    wanted, removed = re.compile(fnmatch.translate(pattern)), []
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            part, found = Path(folder, name), PART.fullmatch(name)
            if found and wanted.match(found[1]) and _remove_abandoned(part):
                removed.append(part)
    return removed


def check_writable(path: str | os.PathLike[str]) -> Path:
    """Return the path, or raise before any work is done for a file that cannot be written.

    Args:
        path: where a file is to go. What killed processes left of it is removed.

    Returns:
        The path.

    Raises:
        FileError: the folder is missing or not writable, the path is a folder, or no name that a
            file can have.
        InputTypeError: ``path`` is no path.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise InputTypeError(f"path must be a path to a file; got {type(path).__name__}.")
    path = Path(path)
    folder = path.parent
    try:
        os.lstat(path)
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:  # a name too long, or with a null byte
        if not isinstance(error, (NotADirectoryError, PermissionError)):
            why = getattr(error, "strerror", None) or error
            raise FileError(f"cannot write {str(path)!r}: {why}. Give another name.") from error
    if path.is_dir():
        raise FileError(f"cannot write {path}: it is a folder. Give a file's name.")
    if not folder.exists():
        raise FileError(f"cannot write {path}: the folder {folder} does not exist. Create it.")
    if not folder.is_dir():
        raise FileError(f"cannot write {path}: {folder} is a file, not a folder.")
    if path.exists() and not os.access(path, os.W_OK):
        raise FileError(f"cannot write {path}: it exists and is read-only.")
    target = _target(path)
    if _stream(target):
        return path
    if not os.access(target.parent, os.W_OK):
        raise FileError(f"cannot write {path}: no permission to write into {target.parent}.")
    _clear(target)
    return path


@contextlib.contextmanager
def _saying(path: str | os.PathLike[str]) -> Iterator[None]:
    """Tell of what went wrong with a file in the package's words."""
    try:
        yield
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"cannot write {path}: {error.strerror or error}.") from error


def _target(path: str | os.PathLike[str]) -> Path:
    """Return where a path leads, so that a link stays one.

    Raises:
        FileError: it has a null byte.
    """
    try:
        return Path(os.path.realpath(path))
    except ValueError as error:
        raise FileError(f"cannot write {str(path)!r}: {error}. Give another name.") from error


def _stream(target: Path) -> bool:
    """Return whether this is a device or a pipe: no other file can take its place."""
    return target.exists() and not target.is_file() and not target.is_dir()


def _clear(target: Path) -> None:
    clear_partial(target.parent, glob.escape(_short(target.name)))


def _short(name: str) -> str:
    """Return a file's name as its part's name repeats it."""
    encoded = os.fsencode(name)
    if len(encoded) <= LONGEST:
        return name
    digest = hashlib.sha256(encoded).hexdigest()[:8]
    return f"{encoded[: LONGEST - 9].decode(errors='ignore')}-{digest}"


def _lend(target: Path) -> tuple[Path, int]:
    """Make a part of a file, and return it with the handle that locks it."""
    mode = target.stat().st_mode & 0o777 if target.exists() else 0o666
    while True:
        part = target.with_name(f".{_short(target.name)}.{secrets.token_hex(4)}.part")
        lock = os.open(part, os.O_CREAT | os.O_EXCL | os.O_RDWR, mode)
        with contextlib.suppress(OSError):  # a file system without locks has no clearing either
            fcntl.flock(lock, fcntl.LOCK_EX)
        if part.exists():
            if target.exists():
                os.fchmod(lock, mode)  # whatever the umask is
            return part, lock
        os.close(lock)  # somebody cleared it between the two calls above


def _remove_abandoned(part: Path) -> bool:
    """Remove a part that nobody is writing; return whether it was removed."""
    with contextlib.suppress(OSError):
        handle = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            part.unlink()
            return True
        finally:
            os.close(handle)
    return False


def _sync_folder(folder: Path) -> None:
    """Make a new name outlast a power cut, where the file system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
