"""Files are written whole or not at all, wherever the writer is killed, and leave nothing."""

from __future__ import annotations

import hashlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from throughtime import files
from throughtime.errors import FileError
from throughtime.files import check_writable, clear_partial, write_whole, writing

# A file that says of itself whether it is whole: its first line is the sum of the rest. The module
# is loaded by itself, since starting torch would take most of the test.
WRITER = """
import hashlib, sys, types
root = sys.argv[1]
package = types.ModuleType("throughtime"); package.__path__ = [root]
sys.modules["throughtime"] = package
from throughtime.files import writing
print("ready", flush=True)
n = 0
while True:
    body = bytes([n % 256]) * (200_000 + n)
    with writing("kept.bin") as part, part.open("wb", buffering=0) as file:
        file.write(hashlib.sha256(body).hexdigest().encode())
        for start in range(0, len(body), 20_000):
            file.write(body[start : start + 20_000])
    n += 1
"""


def whole(path: Path) -> bool:
    content = path.read_bytes()
    return content[:64].decode() == hashlib.sha256(content[64:]).hexdigest()


def parts(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.suffix == ".part"]


def test_a_writer_killed_anywhere_leaves_a_whole_file_and_the_next_one_clears_up(tmp_path: Path):
    chance, left = random.Random(0), 0
    root = str(Path(files.__file__).parent)
    for _ in range(12):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, root], cwd=tmp_path, stdout=subprocess.PIPE
        )
        assert writer.stdout is not None and writer.stdout.readline()
        time.sleep(chance.uniform(0.01, 0.08))
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        left += len(parts(tmp_path))
        if (tmp_path / "kept.bin").exists():
            assert whole(tmp_path / "kept.bin")
    assert left > 0, "no kill fell into a write, so nothing was tested"
    check_writable(tmp_path / "kept.bin")
    assert [path.name for path in tmp_path.iterdir()] == ["kept.bin"]


def test_a_part_that_is_being_written_is_not_cleared(tmp_path: Path):
    with writing(tmp_path / "a.txt") as part:
        part.write_text("new")
        assert clear_partial(tmp_path) == [] and part.exists()
    assert (tmp_path / "a.txt").read_text() == "new"


def test_only_parts_of_the_files_that_are_named_are_cleared(tmp_path: Path):
    mine, other = tmp_path / ".a.pt.0123abcd.part", tmp_path / ".b.txt.0123abcd.part"
    for path in (mine, other, tmp_path / ".a.pt.part", tmp_path / "a.pt.part"):
        path.touch()
    assert clear_partial(tmp_path, "*.pt") == [mine]
    write_whole(tmp_path / "[b].txt", "brackets mean themselves")
    assert other.exists() and len(list(tmp_path.iterdir())) == 4
    write_whole(tmp_path / "b.txt", "")
    assert not other.exists()
    assert clear_partial(tmp_path / "none") == []


def test_a_block_that_raises_leaves_what_was_there(tmp_path: Path):
    write_whole(tmp_path / "a.txt", "old")
    with pytest.raises(KeyboardInterrupt), writing(tmp_path / "a.txt") as part:
        part.write_text("half")
        raise KeyboardInterrupt
    assert (tmp_path / "a.txt").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_a_link_stays_one_and_a_mode_is_kept(tmp_path: Path):
    write_whole(tmp_path / "a.txt", "old")
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o666 & ~umask
    (tmp_path / "a.txt").chmod(0o604)
    (tmp_path / "link").symlink_to("a.txt")
    write_whole(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "a.txt").read_text() == "new"
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o604


def test_a_device_is_written_as_it_is_and_a_full_one_is_said(tmp_path: Path):
    write_whole(check_writable("/dev/null"), "gone")
    assert Path("/dev/null").is_char_device()
    with pytest.raises(FileError, match="cannot write /dev/full: No space left"):
        write_whole(check_writable("/dev/full"), "too much")
    assert Path("/dev/full").is_char_device()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("none/a.txt", "No such file"),
        ("", "directory"),
        ("file/a.txt", "Not a directory"),
        ("a\0b", "null"),
        ("x" * 300, "too long"),
    ],
)
def test_what_cannot_be_written_is_said(tmp_path: Path, name: str, words: str):
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match=words):
        write_whole(f"{tmp_path}/{name}", "")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_nothing_else_in_the_package_writes_files(root: Path):
    """But for what goes into a folder that takes its name as a whole (`watch/keep/folders.py`)."""
    words = re.compile(
        r"^(?! *(>>>|\.\.\.)).*"
        r"(write_text\(|write_bytes\(|mkstemp|NamedTemporaryFile|open\([^)]*[\"'][wx])",
        re.MULTILINE,
    )
    source = root / "src" / "throughtime"
    found = [p.name for p in source.rglob("*.py") if words.search(p.read_text(encoding="utf-8"))]
    assert sorted(found) == ["files.py", "stored.py"]


def test_the_longest_name_can_be_written(tmp_path: Path):
    for name in ("x" * 255, "é" * 127):
        write_whole(tmp_path / name, "x")
    assert sorted(map(len, os.listdir(tmp_path))) == [127, 255]
    assert not any(name.endswith(".part") for name in os.listdir(tmp_path))
