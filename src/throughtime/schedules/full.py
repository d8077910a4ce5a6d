"""Exact BPTT over all steps, everything kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from ..cells.base import AbstractCell
from ..tape import Gradients, Tape
from .base import AbstractSchedule

if TYPE_CHECKING:
    from ..kernels.engine import Engine

__all__ = ["FULL", "Full"]


@dataclass(frozen=True)
class Full(AbstractSchedule):
    """Exact BPTT over all steps, everything kept (eq. 9).

    Cost:
        one sweep back; memory T·B·(S + what the cell saves).

    Example:
        >>> layer = tt.GRU(3, 5, through=tt.Full())
    """

    batches_losses: ClassVar[bool] = True
    looks_at_steps: ClassVar[bool] = False

    def gradients(
        self,
        engine: Engine,
        cell: AbstractCell,
        tape: Tape,
        g_h: Tensor | None,
        g_s: Tensor | None,
        *,
        wants: frozenset[str] | None,
        want_x: bool,
    ) -> Gradients:
        """Go back over all steps in one sweep (eq. 9)."""
        return engine.gradients(cell, tape, g_h, g_s, wants=wants, want_x=want_x)


FULL = Full()
