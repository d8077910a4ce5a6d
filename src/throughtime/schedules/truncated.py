"""Truncated BPTT: each loss reaches back a limited number of steps."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from ..cells.base import AbstractCell
from ..errors import InputValueError
from ..tape import Gradients, Tape, joined, split
from .base import AbstractSchedule, Kept, Total, check_count, last_steps, mask_steps

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
    looks_at_steps: ClassVar[bool] = False

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
        T, ends = len(tape.x), None if g_s is None else last_steps(tape)
        total = Total(engine.empty(tape.x, *tape.x.shape).zero_() if want_x else None)
        s_0 = tape.s.new_zeros(tape.B, cell.state_size)
        for reach, begin, end in self.blocks(T):
            steps = self._steps(engine, cell, tape, reach, end)
            g = _direct(steps, cell, begin - reach, None if g_h is None else g_h[reach - 1 : end])
            delta = None
            if g_s is not None and ends is not None:
                # A row's final state is that of its own last step, which it keeps from there on.
                here = (ends >= begin) & (ends <= end)
                delta = torch.where(here[:, None], g_s, 0)
            found = engine.gradients(cell, steps, g, delta, wants=wants, want_x=want_x)
            total.add(found, slice(reach - 1, end))
            if reach == 1:
                s_0 += found.s_0
        return Gradients(total.weights, total.x, s_0)

    def outputs(
        self,
        engine: Engine,
        cell: AbstractCell,
        x: Tensor,
        s_0: Tensor | None,
        active: Tensor | None,
        reset: Tensor | None,
        *,
        keep: bool,
    ) -> Kept:
        """Run the recurrence (eq. 1) and keep every step, or the states that groups reach back to.

        The latter where the engine keeps no single steps; these then run again on the backward
        pass, so that it costs T·window/every steps forward as well.
        """
        if engine.keeps_steps or not keep:
            return super().outputs(engine, cell, x, s_0, active, reset, keep=keep)
        T, B = x.shape[:2]
        s = x.new_zeros(B, cell.state_size) if s_0 is None else s_0
        h, starts = engine.empty(x, T, B, cell.hidden_size), self._starts(T)
        states = s.new_empty(len(starts), B, cell.state_size)
        for i, (first, last) in enumerate(pairwise([*starts, T])):
            states[i], piece = s, slice(first, last)
            masks = mask_steps(active, piece), mask_steps(reset, piece)
            out = engine.outputs(cell, x[piece], s, *masks, keep=False)
            h[piece], s = out.h, joined(out.finals)
        return Kept(h, split(s, cell.parts()), (states,))

    def _starts(self, T: int) -> list[int]:
        """Return after which steps the groups' reaches begin, ascending."""
        return sorted({reach - 1 for reach, _, _ in self.blocks(T)})

    def _steps(self, engine: Engine, cell: AbstractCell, tape: Tape, first: int, last: int) -> Tape:
        """Return the tape of some steps, anew where only states were kept."""
        T, piece = len(tape.x), slice(first - 1, last)
        if tape.T == T:
            return tape.steps(first, last)
        s = tape.s[self._starts(T).index(first - 1)]
        masks = mask_steps(tape.active, piece), mask_steps(tape.reset, piece)
        return engine.taped(cell, tape.x[piece], s, *masks)

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


def _direct(steps: Tape, cell: AbstractCell, lead: int, g_h: Tensor | None) -> Tensor:
    """Return what enters a block's steps, and nothing in the first ``lead`` of them."""
    if g_h is None:
        return steps.x.new_zeros(*steps.x.shape[:2], cell.hidden_size)
    if lead:
        g_h = g_h.clone()
        g_h[:lead] = 0
    return g_h
