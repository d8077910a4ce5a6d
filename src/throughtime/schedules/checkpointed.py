"""The exact gradient in bounded memory: some states are kept, the rest is recomputed."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from ..cells.base import AbstractCell
from ..errors import InputTypeError, InputValueError
from ..tape import Gradients, Tape, joined, split
from .base import AbstractSchedule, Kept, Total, check_count, mask_steps
from .full import FULL
from .plan import RecomputePlan, plan

if TYPE_CHECKING:
    from ..kernels.engine import Engine

__all__ = ["Checkpointed"]

_UNITS = {"B": 1, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def _bytes(memory: object) -> int:
    wanted = 'memory must be a number of bytes, at least 1, or a text like "64MiB"'
    if isinstance(memory, bool) or not isinstance(memory, (int, float, str)):
        raise InputTypeError(f"{wanted}; got {memory!r}.")
    size = memory
    if isinstance(memory, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", memory)
        unit = _UNITS.get(match[2].upper(), 0) if match else 0
        size = float(match[1]) * unit if match else 0
    if isinstance(size, str) or not 1 <= size < math.inf:
        raise InputValueError(f"{wanted}; got {memory!r}.")
    return int(size)


@dataclass(frozen=True)
class Checkpointed(AbstractSchedule):
    """The exact gradient in bounded memory: some states are kept, the rest is recomputed.

    Attributes:
        every: how many steps lie between two kept states; √T if neither argument is given.
        memory: bytes, or a text like ``"64MiB"``, that the sweeps may keep besides the layer's
            input, output and their gradients, per layer of a stack and direction.

    Cost:
        one more forward sweep; memory B·S·T/every + every·B·(S + what the cell saves + 2A). Where
        ``memory`` is too small for that, steps are recomputed as often as the optimal binomial
        schedule needs, and kept states count twice.

    Raises:
        InputTypeError: ``every`` is no integer, or ``memory`` neither a number nor a text.
        InputValueError: a value below 1, both at once, or a size that cannot be read.

    Source:
        Chen et al. (2016) for one level; Griewank and Walther (2000), and for recurrent networks
        Gruslys et al. (2016), if that does not fit.

    Example:
        >>> layer = tt.LSTM(3, 5, through=tt.Checkpointed(memory="64MiB"))
    """

    looks_at_steps: ClassVar[bool] = False

    every: int | None = None
    memory: float | str | None = None

    def __post_init__(self) -> None:
        """Check what was given."""
        if self.every is not None and self.memory is not None:
            raise InputValueError("give every= or memory=, not both: one follows from the other.")
        if self.every is not None:
            check_count("every", self.every)
        if self.memory is not None:
            self.bytes()

    def bytes(self) -> int | None:
        """Return the budget in bytes, or None."""
        return None if self.memory is None else _bytes(self.memory)

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
        """Run the recurrence and keep some of the states (eq. 1)."""
        T, B = x.shape[:2]
        s_0 = x.new_zeros(B, cell.state_size) if s_0 is None else s_0
        how = plan(self, cell, x, s_0)
        sweeps = Pieces(how, engine, cell, x, active, reset)
        h = engine.empty(s_0, T, B, cell.hidden_size)
        stretches = list(how.descent(0, T, how.slots))
        # One tensor: small ones between the pieces' large ones would fragment memory.
        states = s_0.new_empty(len(stretches) - 1, B, cell.state_size)
        s = s_0
        for number, (first, last) in enumerate(stretches):
            if number:
                s = states[number - 1].copy_(s)
            s = sweeps.advance(s, first, last, h)
        return Kept(h, split(s, cell.parts()), (states,) if keep else ())

    def tape(
        self,
        x: Tensor,
        s_0: Tensor | None,
        kept: tuple[Tensor, ...],
        active: Tensor | None,
        reset: Tensor | None,
    ) -> Tape:
        """Return the kept states as those of a tape, s_0 first."""
        states = kept[0]
        s_0 = states.new_zeros(states.shape[1:]) if s_0 is None else s_0
        return Tape(x, s_0[None], (states,), active, reset)

    def kept_shapes(
        self, cell: AbstractCell, x: Tensor, s_0: Tensor
    ) -> list[tuple[int | None, ...]]:
        """Return the shape of the kept states; None if a compiler leaves T or B open."""
        T, B = x.shape[:2]
        count = None
        if self.every is not None:
            count = (T + self.every - 1) // self.every - 1
        elif isinstance(T, int) and isinstance(B, int):
            how = plan(self, cell, x, s_0)
            count = len(list(how.descent(0, T, how.slots))) - 1
        return [(count, B, cell.state_size)]

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
        """Go back exactly, recomputing each segment from the nearest kept state (eq. 9)."""
        x, s_0, T = tape.x, tape.s[0], int(tape.x.shape[0])
        how = plan(self, cell, x, s_0)
        sweeps = Pieces(how, engine, cell, x, tape.active, tape.reset)
        total = Total(engine.empty(x, *x.shape).zero_() if want_x else None)
        delta = g_s
        # An explicit stack, so that no recursion grows with T.
        stretches = how.descent(0, T, how.slots)
        left = list(zip(stretches, [s_0, *tape.saved[0]], strict=True))
        anew = _Anew(how.slots + 1)
        while left:
            (first, last), s = left.pop()
            at = how.split(first, last, how.slots - len(left))
            if at is None:
                piece = slice(first, last)
                g = None if g_h is None else g_h[piece]
                found = engine.gradients(
                    cell, sweeps.forward(s, piece), g, delta, wants=wants, want_x=want_x
                )
                total.add(found, piece)
                delta = found.s_0
                anew.release(s)
                del found
                continue
            ahead = anew.keep(sweeps.advance(s, first, at))
            left += [((first, at), s), ((at, last), ahead)]
        assert delta is not None
        return Gradients(total.weights, total.x, delta)

    def whole(self) -> AbstractSchedule:
        """Return `Full`, which keeps every step."""
        return FULL

    def told(self) -> tuple[str, int | None, int | None, str | None]:
        """Return the schedule as an operation of torch takes it."""
        memory = None if self.memory is None else str(self.memory)
        return "Checkpointed", None, self.every, memory

    @classmethod
    def from_told(cls, window: int | None, every: int | None, memory: str | None) -> Checkpointed:
        """Return the schedule that `told` described."""
        return cls(every, int(memory) if memory and memory.isdigit() else memory)


class Pieces:
    """Sweeps over parts of a sequence, by one engine."""

    def __init__(
        self,
        how: RecomputePlan,
        engine: Engine,
        cell: AbstractCell,
        x: Tensor,
        active: Tensor | None,
        reset: Tensor | None,
    ) -> None:
        self.how, self.engine, self.cell = how, engine, cell
        self.x, self.active, self.reset = x, active, reset

    def advance(self, s: Tensor, first: int, last: int, h: Tensor | None = None) -> Tensor:
        """Return the state after step ``last``; write the outputs up to there into ``h``."""
        # In pieces, since what a sweep holds while it runs must fit the segment too.
        for begin in range(first, last, self.how.segment):
            piece = slice(begin, min(begin + self.how.segment, last))
            active, reset = mask_steps(self.active, piece), mask_steps(self.reset, piece)
            out = self.engine.outputs(self.cell, self.x[piece], s, active, reset, keep=False)
            if h is not None:
                h[piece] = out.h
            s = joined(out.finals)
        return s

    def forward(self, s: Tensor, piece: slice) -> Tape:
        """Return what the backward pass over some steps needs, from the state before them."""
        active, reset = mask_steps(self.active, piece), mask_steps(self.reset, piece)
        return self.engine.taped(self.cell, self.x[piece], s, active, reset)


class _Anew:
    """States kept on the backward pass, all in one tensor for the reason given in `outputs`."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.free: list[Tensor] | None = None
        self.own: set[int] = set()

    def keep(self, s: Tensor) -> Tensor:
        if self.free is None:
            self.free = list(s.new_empty(self.slots, *s.shape))
            self.own = {state.data_ptr() for state in self.free}
        return self.free.pop().copy_(s)

    def release(self, s: Tensor) -> None:
        if self.free is not None and s.data_ptr() in self.own:
            self.free.append(s)
