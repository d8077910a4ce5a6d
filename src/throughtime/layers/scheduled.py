"""The way back under a schedule: cut into blocks, or recomputed from states that were kept."""

from __future__ import annotations

from collections.abc import Iterator
from math import comb, isqrt
from typing import NamedTuple

import torch
from torch import Tensor

from .. import kernels
from ..cells.base import AbstractCell
from ..errors import InputValueError
from ..schedule import Checkpointed, Truncated
from ..tape import Tape

__all__ = ["Kept", "Plan", "checkpointed", "forward_keeping", "last_steps", "plan", "truncated"]


class Plan(NamedTuple):
    """How a sweep of T steps is recomputed on its way back.

    Attributes:
        segment: how many steps are held at once, with all that the way back needs of them.
        slots: how many states may be kept besides the one that a segment begins with.
    """

    segment: int
    slots: int

    def split(self, first: int, last: int, free: int) -> int | None:
        """Give where to keep the next state between two steps; None where a segment is left.

        With ``free`` slots and r repetitions at most C(free + r, r) segments can be gone back
        through (Griewank and Walther 2000), which says how far ahead the next state may lie.
        """
        n = -(-(last - first) // self.segment)
        if n <= 1:
            return None
        if free < 1:
            return last - 1 - (last - first - 1) % self.segment
        r = 1
        while comb(free + r, r) < n:
            r += 1
        ahead = max(1, n - comb(free - 1 + r, r))
        return first + ahead * self.segment

    def descent(self, first: int, last: int, free: int) -> Iterator[tuple[int, int]]:
        """Give the stretches between the states kept on the first way forward."""
        while (at := self.split(first, last, free)) is not None:
            yield first, at
            first, free = at, free - 1
        yield first, last


class Kept(NamedTuple):
    """What a forward sweep under `Checkpointed` gave.

    Attributes:
        h: (T, B, H).
        s_T: (B, S).
        stretches: first and last step, from 0, between two kept states.
        states: the state that each stretch begins from.
    """

    h: Tensor
    s_T: Tensor
    stretches: list[tuple[int, int]]
    states: list[Tensor]


def plan(schedule: Checkpointed, cell: AbstractCell, x: Tensor, s_0: Tensor) -> Plan:
    """Choose how many steps to hold at once, and how many states to keep.

    Raises:
        InputValueError: the budget does not hold one step and one state.
    """
    T, B = x.shape[:2]
    if schedule.every is not None:
        return Plan(schedule.every, T)
    budget = schedule.bytes()
    if budget is None:
        return Plan(max(1, isqrt(T)), T)
    state = B * cell.state_size * s_0.element_size()
    one = kernels.forward(cell, x[:1], s_0)
    saved = sum(k.nbytes for k in one.saved) + one.s[1:].nbytes
    step = saved + 2 * B * cell.preact_size * s_0.element_size()
    # One level costs least: the longest segment whose states fit beside it.
    for segment in range(min(T, budget // step), 0, -1):
        slots = -(-T // segment) - 1
        if segment * step + (slots + 1) * state <= budget:
            return Plan(segment, slots)
    segment = max(1, budget // (2 * step))
    slots = (budget - segment * step) // state - 1
    if slots < 0:
        raise InputValueError(
            f"memory={schedule.memory!r} cannot hold one step and one state of this layer, which "
            f"take {step + state} bytes for B={B}; allow at least that."
        )
    return Plan(segment, slots)


def forward_keeping(
    how: Plan,
    cell: AbstractCell,
    x: Tensor,
    s_0: Tensor,
    active: Tensor | None,
    reset: Tensor | None,
) -> Kept:
    """Run the recurrence and keep a state now and then (eq. 1)."""
    T, B = x.shape[:2]
    h = s_0.new_empty(T, B, cell.hidden_size)
    s, stretches, states = s_0, [], []
    for first, last in how.descent(0, T, how.slots):
        stretches.append((first, last))
        states.append(s)
        # In pieces: what a sweep holds while it runs must stay within the segment too.
        for begin in range(first, last, how.segment):
            piece = slice(begin, min(begin + how.segment, last))
            out = _outputs(cell, x, s, active, reset, piece)
            h[piece] = out.h
            s = out.s_T
    return Kept(h, s, stretches, states)


def checkpointed(
    how: Plan,
    cell: AbstractCell,
    tape: Tape,
    stretches: list[tuple[int, int]],
    states: list[Tensor],
    g_h: Tensor | None,
    g_s: Tensor | None,
    *,
    wants: frozenset[str],
    want_x: bool,
) -> kernels.Gradients:
    """Go back exactly, recomputing each segment from the nearest state that was kept (eq. 9).

    Args:
        how: the plan.
        cell: the recurrence.
        tape: the inputs and masks; its states are not looked at.
        stretches: first and last step, from 0, between two kept states.
        states: the state that each begins from.
        g_h: what arrives at the outputs, (T, B, H).
        g_s: what arrives at the final state, (B, S).
        wants: the weights whose gradients are wanted.
        want_x: whether dE/dx is wanted.
    """
    x, active, reset = tape.x, tape.active, tape.reset
    total = _Sum(x, want_x)
    delta = g_s
    # A stack of its own, so that no recursion grows with T.
    left = list(zip(stretches, states, strict=True))
    while left:
        (first, last), s = left.pop()
        at = how.split(first, last, how.slots - len(left))
        if at is None:
            piece = slice(first, last)
            again = kernels.forward(cell, x[piece], s, _part(active, piece), _part(reset, piece))
            g = None if g_h is None else g_h[piece]
            found = kernels.gradients(cell, again, g, delta, wants=wants, want_x=want_x)
            total.add(found, piece)
            delta = found.s_0
            continue
        ahead = s
        for begin in range(first, at, how.segment):
            piece = slice(begin, min(begin + how.segment, at))
            ahead = _outputs(cell, x, ahead, active, reset, piece).s_T
        left += [((first, at), s), ((at, last), ahead)]
    assert delta is not None
    return kernels.Gradients(total.weights, total.x, delta)


def truncated(
    schedule: Truncated,
    cell: AbstractCell,
    tape: Tape,
    g_h: Tensor | None,
    g_s: Tensor | None,
    *,
    wants: frozenset[str],
    want_x: bool,
) -> kernels.Gradients:
    """Go back block by block, each no further than the window: eq. 5 without the longer lags.

    Args:
        schedule: the window.
        cell: the recurrence.
        tape: what the forward sweep kept.
        g_h: what arrives at the outputs, (T, B, H).
        g_s: what arrives at the final state, (B, S).
        wants: the weights whose gradients are wanted.
        want_x: whether dE/dx is wanted.
    """
    T, B, H, S = tape.T, tape.B, cell.hidden_size, cell.state_size
    g = tape.s.new_zeros(T, B, H if g_s is None else S)
    if g_h is not None:
        g[..., :H] = g_h
    if g_s is not None:
        # A row's final state is its state at its own last step.
        g[last_steps(tape) - 1, torch.arange(B, device=g.device)] += g_s
    total = _Sum(tape.x, want_x)
    s_0 = tape.s.new_zeros(B, S)
    for reach, begin, end in schedule.blocks(T):
        own = g[reach - 1 : end]
        if reach < begin:
            own = own.clone()
            own[: begin - reach] = 0
        found = kernels.gradients(cell, tape.steps(reach, end), own, wants=wants, want_x=want_x)
        total.add(found, slice(reach - 1, end))
        if reach == 1:
            s_0 += found.s_0
    return kernels.Gradients(total.weights, total.x, s_0)


def last_steps(tape: Tape) -> Tensor:
    """Give the last step that each row takes, (B,)."""
    if tape.active is None:
        return torch.full((tape.B,), tape.T, device=tape.x.device)
    steps = torch.arange(1, tape.T + 1, device=tape.x.device)[:, None]
    return (steps * tape.active).amax(0)


class _Sum:
    """The gradients of several stretches, added up."""

    def __init__(self, x: Tensor, want_x: bool) -> None:
        self.weights: dict[str, Tensor] = {}
        self.x = torch.zeros_like(x, memory_format=torch.contiguous_format) if want_x else None

    def add(self, found: kernels.Gradients, steps: slice) -> None:
        if self.x is not None:
            assert found.x is not None
            self.x[steps] += found.x
        for name, grad in found.weights.items():
            if name in self.weights:
                self.weights[name] += grad
            else:
                self.weights[name] = grad.clone()


def _outputs(
    cell: AbstractCell,
    x: Tensor,
    s: Tensor,
    active: Tensor | None,
    reset: Tensor | None,
    piece: slice,
) -> kernels.Outputs:
    return kernels.outputs(cell, x[piece], s, _part(active, piece), _part(reset, piece), keep=False)


def _part(mask: Tensor | None, piece: slice) -> Tensor | None:
    return None if mask is None else mask[piece]
