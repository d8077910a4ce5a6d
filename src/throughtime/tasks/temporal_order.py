"""Temporal order: which of two symbols came first, long before the question."""

from __future__ import annotations

import math

import torch
from torch import Generator

from .base import Batch, check_at_least

__all__ = ["TemporalOrder"]

# Distractors are the first four symbols; then X and Y, the start and the question.
DISTRACTORS, X, START, ASK, SYMBOLS = 4, 4, 6, 7, 8


class TemporalOrder:
    """Describe XX, XY, YX and YY apart among distractors.

    The first of the two symbols lies in [T/10, T/5), the second in [T/2, 3T/5); everything else
    is one of four distractors, between a start symbol and a question.

    Shapes:
        x (T, B), symbol numbers 0…7; y (B,), class 0…3.

    Floor:
        four classes, equally likely: ln 4.

    Source:
        Hochreiter and Schmidhuber (1997), experiment 6a.

    Example:
        >>> batch = TemporalOrder(T=50).batch(3)
        >>> batch.x.shape, batch.lag
        (torch.Size([50, 3]), 44)
    """

    floor = math.log(4)
    symbols = SYMBOLS

    def __init__(self, T: int) -> None:
        """Take the length.

        Args:
            T: steps, at least 10.

        Raises:
            InputValueError: T below 10.
        """
        check_at_least("T", T, 10)
        self.T = T

    def batch(self, rows: int, generator: Generator | None = None) -> Batch:
        """Draw ``rows`` sequences.

        Args:
            rows: B.
            generator: for reproducible draws.
        """
        T, row = self.T, torch.arange(rows)
        x = torch.randint(0, DISTRACTORS, (T, rows), generator=generator)
        x[0], x[-1] = START, ASK
        early = torch.randint(T // 10, T // 5, (rows,), generator=generator)
        late = torch.randint(T // 2, max(3 * T // 5, T // 2 + 1), (rows,), generator=generator)
        symbols = torch.randint(0, 2, (2, rows), generator=generator)
        x[early, row], x[late, row] = X + symbols[0], X + symbols[1]
        return Batch(x, 2 * symbols[0] + symbols[1], T - 1 - T // 10)
