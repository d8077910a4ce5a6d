"""Which states `Checkpointed` keeps, and which steps it recomputes, within a memory budget."""

from __future__ import annotations

from collections.abc import Iterator
from math import comb, isqrt
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from .. import sweep
from ..cells.base import AbstractCell
from ..errors import InputValueError

if TYPE_CHECKING:
    from .checkpointed import Checkpointed

__all__ = ["RecomputePlan", "advances", "plan"]


class RecomputePlan(NamedTuple):
    """How a sweep of T steps is recomputed on its backward pass.

    Attributes:
        segment: how many steps are held at once, with all that their backward pass needs.
        slots: how many states may be kept besides s_0 and the one that the sweep has reached.
    """

    segment: int
    slots: int

    def split(self, first: int, last: int, free: int) -> int | None:
        """Return where to keep the next state between two steps; None if one segment is left.

        That is where the fewest segments are recomputed, by the binomial formula of Griewank and
        Walther (2000), in which the state before ``first`` counts as one more kept state.
        """
        n, states = -(-(last - first) // self.segment), max(free, 0) + 1
        if n <= 1:
            return None
        r = _repetitions(n, states)
        ahead = max(1, comb(states + r - 2, states), n - comb(states - 1 + r, r))
        return first + min(ahead, n - 1) * self.segment

    def descent(self, first: int, last: int, free: int) -> Iterator[tuple[int, int]]:
        """Return the stretches between the states kept in the first forward pass."""
        while (at := self.split(first, last, free)) is not None:
            yield first, at
            first, free = at, free - 1
        yield first, last


def advances(n: int, slots: int) -> int:
    """Return how many segments are run only to reach a later one, in a backward pass over n.

    Args:
        n: the segments.
        slots: how many states may be kept besides the first.

    Source:
        t(n, s) of Griewank and Walther (2000), "Algorithm 799: revolve", with s = slots + 1.

    Example:
        >>> advances(10, slots=9), advances(10, slots=2), advances(10, slots=0)
        (9, 15, 45)
    """
    r = _repetitions(n, slots + 1)
    return r * n - comb(slots + 1 + r, r - 1) if r else 0


def _repetitions(n: int, states: int) -> int:
    """Return the smallest r with C(states + r, r) ≥ n: how often a segment is run."""
    if states == 1:
        return n - 1
    r = 0
    while comb(states + r, r) < n:
        r += 1
    return r


def plan(schedule: Checkpointed, cell: AbstractCell, x: Tensor, s_0: Tensor) -> RecomputePlan:
    """Choose how many steps to hold at once, and how many states to keep.

    Raises:
        InputValueError: the budget does not hold one step and one state.
    """
    # int: a compiler passes symbolic sizes, and a plan needs their values.
    T, B = int(x.shape[0]), int(x.shape[1])
    if schedule.every is not None:
        return RecomputePlan(min(schedule.every, T), T)
    budget = schedule.bytes()
    if budget is None:
        return RecomputePlan(max(1, isqrt(T)), T)
    state = B * cell.state_size * s_0.element_size()
    # In plain torch, since a compiler asks with tensors that have no memory.
    one = sweep.forward(cell, x[:1], s_0)
    saved = sum(int(k.numel()) * k.element_size() for k in (*one.saved, one.s[1:]))
    step = saved + 2 * B * cell.preact_size * s_0.element_size()
    found = _one_level(T, budget, step, state) or _recursive(T, budget, step, state)
    if found is None:
        raise InputValueError(
            f"memory={schedule.memory!r} cannot hold one step and two states of this layer, which "
            f"take {step + 2 * state} bytes for B={B}; allow at least that."
        )
    return found


def _one_level(T: int, budget: int, step: int, state: int) -> RecomputePlan | None:
    """Return the plan with the longest segment beside which all states fit, or None.

    Under it no step runs more than twice.
    """
    for segment in range(min(T, budget // step), 0, -1):
        slots = -(-T // segment) - 1
        if segment * step + (slots + 1) * state <= budget:
            return RecomputePlan(segment, slots)
    return None


def _recursive(T: int, budget: int, step: int, state: int) -> RecomputePlan | None:
    """Return the plan that recomputes the fewest steps, where each state takes up memory twice.

    What the forward pass kept stays until the graph is freed, and the backward pass keeps as many
    of its own.
    """
    best: tuple[int, RecomputePlan] | None = None
    segment = 1
    while (slots := (budget - segment * step) // (2 * state) - 1) >= 0:
        found = advances(-(-T // segment), slots) * segment, RecomputePlan(segment, slots)
        # Among equals the longer segment: fewer, larger sweeps.
        best = found if best is None or found[0] <= best[0] else best
        segment = max(segment + 1, segment * 5 // 4)
    return None if best is None else best[1]
