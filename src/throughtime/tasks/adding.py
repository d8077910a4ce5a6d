"""The adding problem: the sum of two marked numbers, given at the end."""

from __future__ import annotations

import torch
from torch import Generator

from .base import Batch, check_at_least

__all__ = ["Adding"]


class Adding:
    """Add two numbers that were marked T steps ago or less.

    Each step brings (u_t, m_t): u_t ~ U(0, 1), and m_t = 1 at one step of the first half and one
    of the second, else 0. The target is y = Σ_t m_t u_t.

    Shapes:
        x (T, B, 2), y (B, 1).

    Floor:
        always answering 1 costs the variance of the sum, 2·(1/12) = 1/6.

    Source:
        Hochreiter and Schmidhuber (1997), experiment 4; without their scaling of the target.

    Example:
        >>> batch = Adding(T=20).batch(3)
        >>> batch.x.shape, batch.y.shape
        (torch.Size([20, 3, 2]), torch.Size([3, 1]))
    """

    floor = 1 / 6

    def __init__(self, T: int) -> None:
        """Take the length.

        Args:
            T: steps, at least 2.

        Raises:
            InputValueError: T below 2.
        """
        check_at_least("T", T, 2)
        self.T = T

    def batch(self, rows: int, generator: Generator | None = None) -> Batch:
        """Draw ``rows`` sequences.

        Args:
            rows: B.
            generator: for reproducible draws.
        """
        half = self.T // 2
        x = torch.zeros(self.T, rows, 2)
        x[..., 0] = torch.rand(self.T, rows, generator=generator)
        first = torch.randint(0, half, (rows,), generator=generator)
        second = torch.randint(half, self.T, (rows,), generator=generator)
        row = torch.arange(rows)
        x[first, row, 1] = 1
        x[second, row, 1] = 1
        y = (x[..., 0] * x[..., 1]).sum(0)[:, None]
        return Batch(x, y, self.T - 1 - int(first.min()))
