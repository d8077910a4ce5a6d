"""The two sentences about John, and the far one with more and more said in between."""

from __future__ import annotations

from dataclasses import dataclass

from ..tasks.mention import FILLER, MENTION_STEP, SHORT, write

__all__ = ["BETWEEN", "Reading", "readings", "vocabulary"]

# Which sentences of `FILLER` stand in between, at each stop of the slider. Up to the source's own
# sentence (number 0) short ones are added; after it, more follow it.
BETWEEN: tuple[tuple[int, ...], ...] = (
    (),
    (1,),
    (1, 2),
    (1, 2, 4),
    (1, 2, 4, 3),
    (0,),
    (0, 2),
    (0, 2, 4),
    (0, 2, 4, 5),
    (0, 2, 4, 5, 9),
    (0, 2, 4, 5, 9, 7),
    (0, 2, 4, 5, 9, 7, 10),
)


@dataclass(frozen=True)
class Reading:
    """One text as the network reads it.

    Attributes:
        words: one a step.
        between: how many words stand between the two sentences about John.
        mention: the step at which John is read.
    """

    words: tuple[str, ...]
    between: int
    mention: int = MENTION_STEP


def readings() -> tuple[Reading, ...]:
    """Return the texts of all stops of the slider, the shortest first.

    Example:
        >>> near, far = readings()[0], readings()[5]
        >>> len(near.words), len(far.words), far.words[far.mention - 1]
        (15, 34, 'John')
    """
    texts = []
    for chosen in BETWEEN:
        middle = tuple(word for number in chosen for word in FILLER[number])
        texts.append(Reading(write("Jane", "John", middle).words, len(middle)))
    assert texts[0].words == SHORT.words
    return tuple(texts)


def vocabulary() -> tuple[str, ...]:
    """Return every word of these texts, in order."""
    return tuple(sorted({word for reading in readings() for word in reading.words}))
