"""The source's two sentences as a task: who was said hi to, so many words after the mention."""

from __future__ import annotations

import math
import random
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import InputValueError
from .base import Batch, check_at_least

__all__ = ["LONG", "NAMES", "SHORT", "Mention", "Text"]

NAMES = ("John", "Jane", "Mary", "Peter", "Anna", "Paul", "Laura", "Mark", "Susan", "David",
         "Helen", "Simon", "Emma", "Oliver", "Alice", "Henry")  # fmt: skip

# What lies between the mention and the blank. The first is the source's own; the lengths, 4 to
# 19 words with the full stop, add up to every number of words but 1, 2, 3 and 7.
FILLER = tuple(
    tuple(line.split())
    for line in """\
It was late in the day , and everyone was walking home after a long day at work .
It was late .
It was warm .
The rain had stopped .
A dog barked outside .
The room was very quiet .
Nobody had closed the window .
The clock in the hall struck nine .
The lamp on the table was still warm .
Somewhere a door opened and closed again .
The coffee was cold and the bread was old .
Outside the snow fell on the empty street .
The radio played an old song that everyone had heard before .
There were three chairs , a long table and a picture of the sea .
The train had been late that day , as it was every day in winter .
On the wall hung a map of a country that no longer had a name .""".splitlines()
)
FILLER_LENGTHS = frozenset(map(len, FILLER))

# "Jane walked into the room . John": the second name is the 7th word, so it reaches state s_7.
MENTION_STEP = 7
# "walked in too . … Jane said hi to": what always lies between the mention and the blank.
NEAREST = 8


class Text(NamedTuple):
    """One text, up to the blank.

    Attributes:
        words: what is read, one a step.
        answer: the name that belongs into the blank.
        lag: steps from the mention's word to the last, after which the name is asked for.
    """

    words: tuple[str, ...]
    answer: str
    lag: int

    def __str__(self) -> str:
        """Return the text as it is written."""
        words = " ".join(self.words).replace(" .", ".").replace(" ,", ",")
        return f"{words} ___"


class Mention:
    """Describe who was said hi to, in the source's words (eq. 3, 7).

    "**A** walked into the room. **B** walked in too. *So many words of other things.* **A** said
    hi to ___" → **B**. Words and punctuation are one step each; the loss stands on the last word,
    ``lag`` steps after B was read.

    Shapes:
        x (T, B), word numbers, T = lag + 7; y (B,), name numbers.

    Floor:
        A is read again just before the blank and is never the answer, so that without any memory
        of B a guess is one among N − 1 names: ln (N − 1).

    Source:
        the two sentences of Stanford's CS224d, which the source notes use.

    Example:
        >>> task = Mention()
        >>> print(SHORT)
        Jane walked into the room. John walked in too. Jane said hi to ___
        >>> batch = task.batch(3, lag=27, rng=random.Random(0))
        >>> batch.x.shape, batch.y.shape
        (torch.Size([34, 3]), torch.Size([3]))
    """

    mention_step = MENTION_STEP

    def __init__(self, names: int = 8, shortest: int = NEAREST, longest: int = 100) -> None:
        """Take how many names there are and how far back the mention may lie.

        Args:
            names: N, 3 to 16; John and Jane are always among them.
            shortest: the shortest lag that `draw_lag` returns, at least 8.
            longest: the longest.

        Raises:
            InputValueError: a value outside these, or no possible lag between the two.
        """
        check_at_least("names", names, 3)
        check_at_least("shortest", shortest, NEAREST)
        if names > len(NAMES):
            raise InputValueError(f"names must be at most {len(NAMES)}; got {names}.")
        self.names = NAMES[:names]
        self.lags = tuple(n for n in range(shortest, longest + 1) if can_fill(n - NEAREST))
        if not self.lags:
            raise InputValueError(
                f"no text has a lag between {shortest} and {longest}; possible are 8, 12, 13, 14, "
                "and all from 16 on."
            )
        words = {*self.names, *SHORT.words, *(word for sentence in FILLER for word in sentence)}
        self.vocabulary = tuple(sorted(words))
        self._number = {word: i for i, word in enumerate(self.vocabulary)}

    @property
    def floor(self) -> float:
        """The cross entropy of a guess among the names, without the one who speaks."""
        return math.log(len(self.names) - 1)

    @property
    def chance(self) -> float:
        """How often such a guess is right."""
        return 1 / (len(self.names) - 1)

    def draw_lag(self, rng: random.Random) -> int:
        """Draw a lag, every octave as likely as any other.

        Args:
            rng: where chance comes from.
        """
        low, high = math.log(self.lags[0]), math.log(self.lags[-1])
        wanted = math.exp(rng.uniform(low, high))
        return min(self.lags, key=lambda lag: abs(lag - wanted))

    def text(self, lag: int, rng: random.Random) -> Text:
        """Write one text.

        Args:
            lag: steps between mention and blank.
            rng: where chance comes from.

        Raises:
            InputValueError: no filler has that length.
        """
        a, b = rng.sample(self.names, 2)
        return write(a, b, filler(lag - NEAREST, rng))

    def encode(self, texts: list[Text]) -> tuple[Tensor, Tensor]:
        """Return texts of one length as x (T, B) and y (B,).

        Args:
            texts: with names and words of this task only.
        """
        x = [[self._number[word] for word in text.words] for text in texts]
        return torch.tensor(x).T, torch.tensor([self.names.index(text.answer) for text in texts])

    def batch(self, rows: int, lag: int, rng: random.Random) -> Batch:
        """Draw ``rows`` texts of one lag, so that nothing is padded.

        Args:
            rows: B.
            lag: steps between mention and blank.
            rng: where chance comes from.

        Raises:
            InputValueError: no filler has that length.
        """
        x, y = self.encode([self.text(lag, rng) for _ in range(rows)])
        return Batch(x, y, lag)


def write(a: str, b: str, between: tuple[str, ...] = ()) -> Text:
    """Write the text in which ``a`` says hi to ``b``, with ``between`` before the last sentence."""
    first = f"{a} walked into the room . {b} walked in too .".split()
    words = (*first, *between, *f"{a} said hi to".split())
    return Text(words, b, len(words) - MENTION_STEP)


@lru_cache(maxsize=4096)
def can_fill(words: int) -> bool:
    """Check whether filler sentences can add up to exactly so many words."""
    return words == 0 or any(
        words >= length and can_fill(words - length) for length in FILLER_LENGTHS
    )


def filler(words: int, rng: random.Random) -> tuple[str, ...]:
    """Write filler sentences of exactly so many words.

    Args:
        words: how many, full stops and commas among them.
        rng: where chance comes from.

    Raises:
        InputValueError: no sentences add up to that.
    """
    if words < 0 or not can_fill(words):
        raise InputValueError(
            f"no text has a lag of {words + NEAREST}; possible are 8, 12, 13, 14, "
            "and all from 16 on."
        )
    out: list[str] = []
    while words:
        fits = [s for s in FILLER if len(s) <= words and can_fill(words - len(s))]
        sentence = rng.choice(fits)
        out += sentence
        words -= len(sentence)
    return tuple(out)


SHORT = write("Jane", "John")
LONG = write("Jane", "John", FILLER[0])
