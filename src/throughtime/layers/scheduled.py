"""The way back under a schedule: cut into blocks, or recomputed from states that were kept."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .. import kernels
from ..cells.base import AbstractCell
from ..schedule import Truncated
from ..tape import Tape
from .plan import Plan

__all__ = ["Kept", "checkpointed", "forward_keeping", "last_steps", "truncated"]


class Kept(NamedTuple):
    """What a forward sweep under `Checkpointed` gave.

    Attributes:
        h: (T, B, H).
        s_T: (B, S).
        stretches: first and last step, from 0, between two kept states.
        states: what each stretch but the first begins from, (·, B, S).
    """

    h: Tensor
    s_T: Tensor
    stretches: list[tuple[int, int]]
    states: Tensor


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
    h = kernels.empty(s_0, T, B, cell.hidden_size)
    stretches = list(how.descent(0, T, how.slots))
    # One tensor: small ones between the pieces' large ones would leave holes that none fits.
    states = s_0.new_empty(len(stretches) - 1, B, cell.state_size)
    s = s_0
    for number, (first, last) in enumerate(stretches):
        if number:
            s = states[number - 1].copy_(s)
        s = _advance(how, cell, x, s, active, reset, first, last, h)
    return Kept(h, s, stretches, states)


def _advance(
    how: Plan,
    cell: AbstractCell,
    x: Tensor,
    s: Tensor,
    active: Tensor | None,
    reset: Tensor | None,
    first: int,
    last: int,
    h: Tensor | None = None,
) -> Tensor:
    """Give the state after step ``last``, and the outputs up to there if ``h`` is given."""
    # In pieces: what a sweep holds while it runs must stay within the segment too.
    for begin in range(first, last, how.segment):
        piece = slice(begin, min(begin + how.segment, last))
        out = _outputs(cell, x, s, active, reset, piece)
        if h is not None:
            h[piece] = out.h
        s = kernels.joined(out.finals)
    return s


def checkpointed(
    how: Plan,
    cell: AbstractCell,
    tape: Tape,
    stretches: list[tuple[int, int]],
    states: list[Tensor],
    g_h: Tensor | None,
    g_s: Tensor | None,
    *,
    wants: frozenset[str] | None,
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
        wants: the weights whose gradients are wanted; None: all.
        want_x: whether dE/dx is wanted.
    """
    x, active, reset = tape.x, tape.active, tape.reset
    total = _Sum(x, want_x)
    delta = g_s
    # A stack of its own, so that no recursion grows with T.
    left = list(zip(stretches, states, strict=True))
    anew = _Anew(how.slots + 1)
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
            anew.release(s)
            del again, found
            continue
        ahead = anew.keep(_advance(how, cell, x, s, active, reset, first, at))
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
    wants: frozenset[str] | None,
    want_x: bool,
) -> kernels.Gradients:
    """Go back block by block, each no further than the window: eq. 5 without the longer lags.

    Args:
        schedule: the window.
        cell: the recurrence.
        tape: what the forward sweep kept.
        g_h: what arrives at the outputs, (T, B, H).
        g_s: what arrives at the final state, (B, S).
        wants: the weights whose gradients are wanted; None: all.
        want_x: whether dE/dx is wanted.
    """
    T, B, S = tape.T, tape.B, cell.state_size
    ends = None if g_s is None else last_steps(tape)
    total = _Sum(tape.x, want_x)
    s_0 = tape.s.new_zeros(B, S)
    for reach, begin, end in schedule.blocks(T):
        steps = tape.steps(reach, end)
        g = _direct(cell, steps, begin - reach, None if g_h is None else g_h[reach - 1 : end])
        if g_s is not None and ends is not None:
            # A row's final state is its state at its own last step.
            rows = ((ends >= begin) & (ends <= end)).nonzero()[:, 0]
            g = torch.nn.functional.pad(g, (0, S - g.shape[-1]))
            g[ends[rows] - reach, rows] += g_s[rows]
        found = kernels.gradients(cell, steps, g, wants=wants, want_x=want_x)
        total.add(found, slice(reach - 1, end))
        if reach == 1:
            s_0 += found.s_0
    return kernels.Gradients(total.weights, total.x, s_0)


def _direct(cell: AbstractCell, steps: Tape, lead: int, g_h: Tensor | None) -> Tensor:
    """Give what enters a block's steps, and nothing in the first ``lead`` of them."""
    if g_h is None:
        return steps.s.new_zeros(steps.T, steps.B, cell.hidden_size)
    if lead:
        g_h = g_h.clone()
        g_h[:lead] = 0
    return g_h


def last_steps(tape: Tape) -> Tensor:
    """Give the last step that each row takes, (B,)."""
    if tape.active is None:
        return torch.full((tape.B,), tape.T, device=tape.x.device)
    steps = torch.arange(1, tape.T + 1, device=tape.x.device)[:, None]
    return (steps * tape.active).amax(0)


class _Anew:
    """States kept on the way back, all in one tensor, for the reason given in `forward_keeping`."""

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


class _Sum:
    """The gradients of several stretches, added up."""

    def __init__(self, x: Tensor, want_x: bool) -> None:
        self.weights: dict[str, Tensor] = {}
        self.x = kernels.empty(x, *x.shape).zero_() if want_x else None

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
