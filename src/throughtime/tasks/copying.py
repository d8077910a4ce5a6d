"""The copy problem: ten symbols, repeated T steps later."""

from __future__ import annotations

import math

import torch
from torch import Generator

from .base import Batch, check_at_least

__all__ = ["Copying"]

LENGTH, ALPHABET = 10, 8
BLANK, GO = 8, 9


class Copying:
    """Repeat ten symbols after T steps of blanks.

    Input: ten symbols of an alphabet of eight, T − 1 blanks, the sign to begin, ten blanks.
    Target: T + 10 blanks, then the ten symbols; so every symbol is asked for T + 10 steps after it
    was shown.

    Shapes:
        x (T + 20, B), symbol numbers 0…9; y (T + 20, B), 0…8.

    Floor:
        the mean cross entropy of blanks where they belong and a guess elsewhere,
        10 ln 8 / (T + 20).

    Source:
        Hochreiter and Schmidhuber (1997); this form is that of Arjovsky, Shah and Bengio (2016).

    Example:
        >>> task = Copying(T=30)
        >>> batch = task.batch(3)
        >>> batch.x.shape, batch.lag, round(task.floor, 4)
        (torch.Size([50, 3]), 40, 0.4159)
    """

    symbols = 10

    def __init__(self, T: int) -> None:
        """Take the gap.

        Args:
            T: steps between, at least 1.

        Raises:
            InputValueError: T below 1.
        """
        check_at_least("T", T, 1)
        self.T = T

    @property
    def floor(self) -> float:
        """The mean cross entropy a step of the best answer that remembers nothing."""
        return LENGTH * math.log(ALPHABET) / (self.T + 2 * LENGTH)

    def batch(self, rows: int, generator: Generator | None = None) -> Batch:
        """Draw ``rows`` sequences.

        Args:
            rows: B.
            generator: for reproducible draws.
        """
        shown = torch.randint(0, ALPHABET, (LENGTH, rows), generator=generator)
        x = torch.full((self.T + 2 * LENGTH, rows), BLANK)
        y = x.clone()
        x[:LENGTH] = shown
        x[LENGTH + self.T - 1] = GO
        y[-LENGTH:] = shown
        return Batch(x, y, self.T + LENGTH)
