"""Truncated BPTT: each loss reaches back a limited number of steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from ..cells.base import AbstractCell
from ..errors import InputValueError
from ..tape import Gradients, Tape
from .base import AbstractSchedule, Total, check_count, last_steps

if TYPE_CHECKING:
    from ..kernels.engine import Engine

__all__ = ["Truncated"]


@dataclass(frozen=True)
class Truncated(AbstractSchedule):
    """Truncated BPTT, BPTT(h; h′) of Williams and Peng (1990): biased, one sweep without overlap.

    After every ``every`` steps, the losses of those steps are sent back through the last
    ``window`` steps; a last group that T cuts short goes back as far as a whole one would.
    ``every=None`` means ``every=window``: segments that do not overlap, counted from the first
    step. With ``every=1`` each loss reaches back exactly ``window`` steps; with window 1 that is
    only its own step. The terms of eq. 5 with a smaller lag are exact; the others are
    left out, so **the gradient is biased**: no lag beyond the window can be learned.

    Attributes:
        window: h, how many steps a loss may reach back.
        every: h′, how many steps' losses are sent back together.

    Cost:
        T·window/every steps back, one sweep where ``every`` is None.

    Raises:
        InputTypeError: ``window`` or ``every`` is no integer.
        InputValueError: one of them is below 1, or ``every`` above ``window``.

    Source:
        Williams and Peng (1990), "An efficient gradient-based algorithm for on-line training of
        recurrent network trajectories".

    Example:
        >>> layer = tt.GRU(3, 5, through=tt.Truncated(20))
    """

    exact: ClassVar[bool] = False

    window: int
    every: int | None = None

    def __post_init__(self) -> None:
        """Check both numbers."""
        check_count("window", self.window)
        if self.every is not None:
            check_count("every", self.every)
            if self.every > self.window:
                raise InputValueError(
                    f"every must not be above window={self.window}, or some losses would not reach "
                    f"their own step; got {self.every}."
                )

    def blocks(self, T: int) -> list[tuple[int, int, int]]:
        """Return, for each group of losses, the first step reached, and its first and last step."""
        every = self.every or self.window
        ends = [min(end, T) for end in range(every, T + every, every)]
        begins = [end - every + 1 for end in range(every, T + every, every)]
        return [
            (max(1, begin + every - self.window), begin, end)
            for begin, end in zip(begins, ends, strict=True)
        ]

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
        """Go back block by block, each within the window: eq. 5 without the longer lags."""
        T, B, S = tape.T, tape.B, cell.state_size
        ends = None if g_s is None else last_steps(tape)
        total = Total(engine.empty(tape.x, *tape.x.shape).zero_() if want_x else None)
        s_0 = tape.s.new_zeros(B, S)
        for reach, begin, end in self.blocks(T):
            steps = tape.steps(reach, end)
            g = _direct(cell, steps, begin - reach, None if g_h is None else g_h[reach - 1 : end])
            if g_s is not None and ends is not None:
                # A row's final state is that of its own last step.
                rows = ((ends >= begin) & (ends <= end)).nonzero()[:, 0]
                g = torch.nn.functional.pad(g, (0, S - g.shape[-1]))
                g[ends[rows] - reach, rows] += g_s[rows]
            found = engine.gradients(cell, steps, g, wants=wants, want_x=want_x)
            total.add(found, slice(reach - 1, end))
            if reach == 1:
                s_0 += found.s_0
        return Gradients(total.weights, total.x, s_0)

    def left_out(
        self, engine: Engine, cell: AbstractCell, tape: Tape, g: Tensor
    ) -> dict[str, Tensor]:
        """Return the terms of dE/dW (eq. 5) beyond the reach, summed, by weight.

        The losses of each group are followed to where the schedule stops; from there on all groups
        travel together, since eq. 9 is linear. The terms themselves are summed, so nothing is the
        difference of two large numbers.

        Cost:
            T·window/every steps back, and T more; memory T·B·(S + A).
        """
        beyond = g.new_zeros(1, tape.T, tape.B, cell.state_size)
        for reach, begin, end in self.blocks(tape.T):
            if reach == 1:
                continue
            own = g[None, reach - 1 : end].clone()
            own[:, : begin - reach] = 0
            beyond[:, reach - 2] += engine.backward(cell, tape.steps(reach, end), own)[1]
        with torch.no_grad():
            return cell.param_grads(tape, engine.backward(cell, tape, beyond)[0][0])

    def told(self) -> tuple[str, int | None, int | None, str | None]:
        """Return the schedule as an operation of torch takes it."""
        return "Truncated", self.window, self.every, None

    @classmethod
    def from_told(cls, window: int | None, every: int | None, memory: str | None) -> Truncated:
        """Return the schedule that `told` described."""
        assert window is not None
        return cls(window, every)


def _direct(cell: AbstractCell, steps: Tape, lead: int, g_h: Tensor | None) -> Tensor:
    """Return what enters a block's steps, and nothing in the first ``lead`` of them."""
    if g_h is None:
        return steps.s.new_zeros(steps.T, steps.B, cell.hidden_size)
    if lead:
        g_h = g_h.clone()
        g_h[:lead] = 0
    return g_h
