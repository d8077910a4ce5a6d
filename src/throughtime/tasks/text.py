"""Characters of a text, in streams whose state may be carried from segment to segment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from ..errors import FileError, InputValueError
from .base import check_at_least

__all__ = ["CharText", "read_text"]


def read_text(path: str | os.PathLike[str]) -> str:
    """Read a text file as UTF-8.

    Args:
        path: of the file.

    Raises:
        FileError: it is missing, a folder, not readable, not UTF-8, or empty.
    """
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise FileError(f"there is no text file {path}.") from error
    except IsADirectoryError as error:
        raise FileError(f"{path} is a folder; give a text file.") from error
    except UnicodeDecodeError as error:
        raise FileError(
            f"{path} is not UTF-8: byte {error.object[error.start]:#04x} at {error.start}. "
            "Convert it: iconv -t UTF-8 (with -f its encoding)."
        ) from error
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}.") from error
    if not text.strip():
        raise FileError(f"{path} is empty; there is nothing to learn from.")
    return text


class CharText:
    """A text as numbers, its last part kept for validation.

    Training goes through ``rows`` contiguous streams side by side: row b of one segment goes on
    where row b of the segment before ended, so a state can be carried over.

    Shapes:
        segments: x, y (T, B), where y is x one character later.

    Cost:
        8 bytes a character.

    Example:
        >>> text = CharText("to be or not to be " * 20, window=16, rows=4)
        >>> x, y = next(text.segments())
        >>> x.shape, bool((x[1:] == y[:-1]).all())
        (torch.Size([16, 4]), True)
    """

    def __init__(
        self,
        text: str,
        *,
        window: int,
        rows: int,
        validation: float = 0.1,
        vocabulary: str | None = None,
    ) -> None:
        """Number the characters and lay them out in streams.

        Args:
            text: the text.
            window: T, characters a segment.
            rows: B, streams side by side.
            validation: which part of the text, its end, is not trained on.
            vocabulary: the characters in order; those of the text where None.

        Raises:
            InputValueError: the text is too short, or has characters that the vocabulary lacks.
        """
        check_at_least("window", window, 1)
        check_at_least("rows", rows, 1)
        if not 0 < validation < 1:
            raise InputValueError(f"validation must lie between 0 and 1; got {validation}.")
        self.vocabulary = "".join(sorted(set(text))) if vocabulary is None else vocabulary
        number = {character: i for i, character in enumerate(self.vocabulary)}
        unknown = sorted(set(text) - number.keys())
        if unknown:
            raise InputValueError(
                f"the text has {len(unknown)} characters that the model does not know, such as "
                f"{unknown[0]!r}; it was trained on another text."
            )
        self.window, self.rows = window, rows
        cut = len(text) - max(int(len(text) * validation), window + 1)
        # A full segment for every row, and the character after it, in the part that is trained on.
        least = rows * window + 1
        if cut < least:
            raise InputValueError(
                f"the text has {len(text)} characters, too few for {rows} rows of {window} and a "
                f"validation part of {len(text) - cut}: at least {least + len(text) - cut} are "
                "needed. Use a smaller window or fewer rows, or a longer text."
            )
        numbers = torch.tensor([number[character] for character in text])
        self.train = self._streams(numbers[:cut], rows)
        held_out = numbers[cut:]
        self.held_out = self._streams(held_out, max(1, min(rows, (len(held_out) - 1) // window)))

    @staticmethod
    def _streams(numbers: Tensor, rows: int) -> Tensor:
        """Lay numbers out as (steps + 1, rows): the last entry of each row is only a target."""
        steps = (len(numbers) - 1) // rows
        starts = torch.arange(rows) * steps
        return torch.stack([numbers[s : s + steps + 1] for s in starts.tolist()], 1)

    def __len__(self) -> int:
        """How many segments one way through the training part has."""
        return (len(self.train) - 1) // self.window

    def segment(self, index: int) -> tuple[Tensor, Tensor]:
        """Return the x and y of one segment of the training part, (T, B) each.

        Args:
            index: 0 to ``len(self) − 1``.
        """
        start = index * self.window
        return _pair(self.train, start, self.window)

    def segments(self, *, held_out: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
        """Go through the text once, segment by segment.

        Args:
            held_out: through the validation part instead.

        Yields:
            x and y, (T, B) each.
        """
        stream = self.held_out if held_out else self.train
        window = min(self.window, len(stream) - 1)
        for start in range(0, len(stream) - window, window):
            yield _pair(stream, start, window)

    def decode(self, numbers: Tensor) -> str:
        """Return the characters of numbers (T,)."""
        return "".join(self.vocabulary[n] for n in numbers.tolist())

    def encode(self, text: str) -> Tensor:
        """Return the numbers of characters, (T,); characters that are not known are left out."""
        return torch.tensor([self.vocabulary.index(c) for c in text if c in self.vocabulary])


def _pair(stream: Tensor, start: int, window: int) -> tuple[Tensor, Tensor]:
    return stream[start : start + window], stream[start + 1 : start + window + 1]
