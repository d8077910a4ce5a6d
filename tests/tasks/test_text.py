"""Character streams: row b of a segment goes on where row b of the one before ended."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from throughtime.errors import FileError, InputValueError
from throughtime.tasks import CharText, read_text

TEXT = "".join(chr(97 + i % 26) for i in range(1000))


def test_rows_go_on_from_segment_to_segment():
    text = CharText(TEXT, window=10, rows=4)
    segments = list(text.segments())
    assert len(segments) == len(text) > 10
    for (_, y), (x, _) in pairwise(segments):
        assert torch.equal(y[-1], x[0])
    whole = torch.cat([x for x, _ in segments])
    for row in range(4):
        assert text.decode(whole[:, row]) in TEXT


def test_nothing_held_out_is_trained_on():
    text = CharText(TEXT, window=10, rows=4, validation=0.25)
    last = max(TEXT.find(text.decode(x[:, 3])) for x, _ in text.segments())
    assert last < 750
    numbers = torch.tensor([text.vocabulary.index(c) for c in TEXT])
    assert torch.equal(text.held_out[:, 0], numbers[750 : 750 + len(text.held_out)])


def test_a_byte_order_mark_is_no_character(tmp_path: Path):
    (tmp_path / "bom.txt").write_bytes("\ufeffabc".encode())
    assert read_text(tmp_path / "bom.txt") == "abc"


def test_files_that_cannot_be_learned_from_are_refused(tmp_path: Path):
    (tmp_path / "empty.txt").write_text("  \n")
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    for path, words in (
        (tmp_path / "none.txt", "there is no text file"),
        (tmp_path, "is a folder"),
        (tmp_path / "empty.txt", "is empty"),
        (tmp_path / "latin.txt", "not UTF-8: byte 0xe9 at 0"),
    ):
        with pytest.raises(FileError, match=words):
            read_text(path)


def test_a_text_too_short_says_how_long_it_must_be():
    with pytest.raises(InputValueError, match=r"at least (\d+) are needed") as caught:
        CharText("ab" * 40, window=20, rows=4)
    least = int(str(caught.value).split("at least ")[1].split(" are")[0])
    assert len(CharText("a" * least, window=20, rows=4)) == 1
    with pytest.raises(InputValueError):
        CharText("a" * (least - 1), window=20, rows=4)


def test_unknown_characters_are_refused():
    with pytest.raises(InputValueError, match="does not know"):
        CharText("abc" * 100, window=5, rows=2, vocabulary="ab")


@pytest.mark.parametrize("name", ["war_and_peace.txt", "tinyshakespeare.txt"])
def test_real_texts_are_read(name: str, shared_data: Path):
    text = CharText(read_text(shared_data / name), window=64, rows=32)
    assert len(text) > 400 and 50 < len(text.vocabulary) < 200
