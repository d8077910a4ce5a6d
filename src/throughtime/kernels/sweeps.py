"""The two sweeps of `throughtime.sweep`, compiled where a kernel applies."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .. import sweep as reference
from ..cells import LSTM, AbstractCell
from ..shapes import check
from ..tape import Tape
from . import native
from .choose import decide
from .steps import Arguments, Span

__all__ = ["Outputs", "backward", "forward", "outputs"]

_LIMIT = 2**31 - 1  # rows and steps are counted in 32 bits


def forward(
    cell: AbstractCell,
    x: Tensor,
    s_0: Tensor,
    active: Tensor | None = None,
    reset: Tensor | None = None,
) -> Tape:
    """Run the recurrence over all steps and keep the tape (eq. 1), as `sweep.forward` does.

    Args:
        cell: the recurrence.
        x: inputs (T, B, I).
        s_0: the initial state (B, S).
        active: (T, B) bool; rows that are False keep their state. The compiled kernel takes rows
            whose steps are consecutive from the first on or up to the last.
        reset: (T, B) bool, within ``active``; where True the state is zeroed before the step.

    Cost:
        one product for all inputs, and 2·B·A·H operations a step; a row costs its own length.

    Example:
        >>> from throughtime.cells import Elman
        >>> forward(Elman(3, 5), torch.zeros(7, 2, 3), torch.zeros(2, 5)).s.shape
        torch.Size([8, 2, 5])
    """
    number = _decide_forward(cell, x, s_0, active, reset)
    if number is None:
        return reference.forward(cell, x, s_0, active, reset)
    with torch.no_grad():
        return _keep(cell, number, x, s_0, active, reset)


class Outputs(NamedTuple):
    """What a layer puts out.

    Attributes:
        h: (T, B, H), 0 where a row takes no step.
        s_T: the final state (B, S).
        tape: what the way back needs, or None. ``h`` may share its memory with the tape's states.
    """

    h: Tensor
    s_T: Tensor
    tape: Tape | None


def outputs(
    cell: AbstractCell,
    x: Tensor,
    s_0: Tensor,
    active: Tensor | None = None,
    reset: Tensor | None = None,
    *,
    keep: bool = True,
) -> Outputs:
    """Run the recurrence over all steps and give what a layer puts out (eq. 1).

    Args:
        cell: the recurrence.
        x: inputs (T, B, I).
        s_0: the initial state (B, S).
        active: (T, B) bool; rows that are False keep their state and put out 0.
        reset: (T, B) bool, within ``active``; where True the state is zeroed before the step.
        keep: whether the way back will be taken.

    Cost:
        as `forward`; without ``keep`` memory T·B·H.

    Example:
        >>> from throughtime.cells import Elman
        >>> outputs(Elman(3, 5), torch.zeros(7, 2, 3), torch.zeros(2, 5)).h.shape
        torch.Size([7, 2, 5])
    """
    number = _decide_forward(cell, x, s_0, active, reset)
    H = cell.hidden_size
    with torch.no_grad():
        if number is None:
            tape = reference.forward(cell, x, s_0, active, reset, keep=keep)
            h = _shown(tape.s, H) if active is None else _silent(tape.s[1:, :, :H], active)
            return Outputs(h, tape.s[-1].clone(), tape if keep else None)
        own = not keep or active is not None or cell.state_size > H
        h = native.empty(x, *x.shape[:2], H) if own else None
        if keep:
            tape = _keep(cell, number, x, s_0, active, reset, h)
            return Outputs(_shown(tape.s, H) if h is None else h, tape.s[-1].clone(), tape)
        s = x.new_empty(2, x.shape[1], cell.state_size)
        s[0] = s_0
        arguments = _forward_arguments(cell, number, x, s, active, reset, h)
        arguments.sweep.keep = 0
        native.run(arguments.sweep, back=False)
        assert h is not None
        return Outputs(h, s[1], None)


def _shown(s: Tensor, H: int) -> Tensor:
    """Give h for all steps: the states' own memory, where it is whole, under another name.

    Whatever is written into it counts as a change of h, not of s.
    """
    h = s[1:]
    if h.shape[-1] != H or not h.is_contiguous():
        return h[..., :H].contiguous()
    return h.new_empty(0).set_(h.untyped_storage(), h.storage_offset(), h.shape, h.stride())


def _silent(h: Tensor, active: Tensor) -> Tensor:
    return h.masked_fill(~active[..., None], 0).contiguous()


def _decide_forward(
    cell: AbstractCell, x: Tensor, s_0: Tensor, active: Tensor | None, reset: Tensor | None
) -> int | None:
    obstacle = _size_obstacle(x.shape[0], s_0.shape[0])
    number = decide(cell, x, s_0, active, reset, obstacle=obstacle)
    if number is None:
        return None
    span = None if active is None else Span.of(active)
    if span is not None and span.obstacle:
        number = decide(cell, obstacle=span.obstacle)
    return number


def _forward_arguments(
    cell: AbstractCell,
    number: int,
    x: Tensor,
    s: Tensor,
    active: Tensor | None,
    reset: Tensor | None,
    h: Tensor | None,
) -> Arguments:
    arguments = Arguments(cell, number, x, s, active, reset)
    arguments.add_bias()
    arguments.sweep.h = native.pointer(h)
    return arguments


def _keep(
    cell: AbstractCell,
    number: int,
    x: Tensor,
    s_0: Tensor,
    active: Tensor | None,
    reset: Tensor | None,
    h: Tensor | None = None,
) -> Tape:
    """Run the compiled sweep and give the tape, as the cell's own `step` would have kept it."""
    (T, B), H, S = x.shape[:2], cell.hidden_size, cell.state_size
    check("s_0", s_0, "B S", {"B": B, "S": S})
    s = native.empty(x, T + 1, B, S)
    s[0] = s_0
    arguments = _forward_arguments(cell, number, x, s, active, reset, h)
    bare = Tape(x, s, (), active, reset)
    if number == 0:
        native.run(arguments.sweep, back=False)
        return Tape(x, s, (s[1:],), active, reset)
    a = native.empty(x, T, B, cell.preact_size)
    arguments.sweep.a = a.data_ptr()
    if isinstance(cell, LSTM):
        native.run(arguments.sweep, back=False)
        return Tape(x, s, (a, bare.s_prev(), s[1:]), active, reset)
    q = native.empty(x, T, B, H)
    arguments.sweep.q = q.data_ptr()
    native.run(arguments.sweep, back=False)
    return Tape(x, s, (a, q, bare.s_prev()), active, reset)


def backward(
    cell: AbstractCell, tape: Tape, g: Tensor, delta_T: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Send V losses back through all steps in one sweep (eq. 9), as `sweep.backward` does.

    Args:
        cell: the recurrence.
        tape: what its forward sweep kept.
        g: direct gradients (V, T, B, G) into the first G ≤ S entries of s_1…s_T.
        delta_T: what else arrives at s_T, (V, B, S).

    Returns:
        The adjoints (V, T, B, A), and dE/ds_0 (V, B, S).

    Cost:
        2·V·B·A·H operations a step; memory V·T·B·A.
    """
    number = decide_back(cell, tape, g, delta_T, V=g.shape[0])
    if number is None:
        return reference.backward(cell, tape, g, delta_T)
    with torch.no_grad():
        adjoints = native.empty(g, *g.shape[:3], cell.preact_size)
        return adjoints, run_back(cell, number, tape, g, delta_T, adjoints=adjoints)


def decide_back(
    cell: AbstractCell, tape: Tape, g: Tensor | None, delta_T: Tensor | None, V: int = 1
) -> int | None:
    """Give the number of the compiled kernel for the way back, or None for the reference."""
    obstacle = _size_obstacle(tape.T, V * tape.B)
    if tape.active is not None:
        obstacle = obstacle or Span.of(tape.active).obstacle
    return decide(cell, tape.x, tape.s, *tape.saved, g, delta_T, obstacle=obstacle)


def run_back(
    cell: AbstractCell,
    number: int,
    tape: Tape,
    g: Tensor | None,
    delta_T: Tensor | None = None,
    *,
    V: int = 1,
    enters: Tensor | None = None,
    floors: Tensor | None = None,
    **out: Tensor | None,
) -> Tensor:
    """Run the compiled backward sweep into the arrays given, and give dE/ds_0 (V, B, S).

    Args:
        cell: the recurrence.
        number: of its compiled kernel.
        tape: what its forward sweep kept.
        g: direct gradients (V, T, B, G); or (T, B, G), of which loss v has step ``enters[v]``.
        delta_T: what else arrives at s_T, (V, B, S).
        V: how many losses there are, where neither ``g`` nor ``delta_T`` says so.
        enters: (V,) the last step, counted from 0, at which a loss enters; -1: nowhere.
        floors: (V,) the lowest k that a loss is followed to.
        out: what to write: adjoints (V, T, B, A), norms (V, T+1, B), deltas (V, T+1, B, S).
    """
    V = g.shape[0] if g is not None and g.dim() == 4 else V if delta_T is None else len(delta_T)
    arguments = back_arguments(cell, number, tape, g, delta_T, V=V)
    sweep = arguments.sweep
    for name, where in (("enters", enters), ("floors", floors)):
        if where is not None:
            numbers = where.to(torch.int32).clamp(-1, tape.T)
            setattr(sweep, name, arguments.keep(name, numbers, "V", {"V": V}))
    for name, array in out.items():
        if array is not None:
            assert array.is_contiguous() and array.dtype == tape.s.dtype
            setattr(sweep, name, array.data_ptr())
    delta_0 = tape.s.new_empty(V, tape.B, cell.state_size)
    sweep.delta_0 = delta_0.data_ptr()
    native.run(sweep, back=True)
    return delta_0


def back_arguments(
    cell: AbstractCell,
    number: int,
    tape: Tape,
    g: Tensor | None,
    delta_T: Tensor | None,
    *,
    V: int = 1,
    with_x: bool = False,
) -> Arguments:
    """Describe the way back over a tape, with what enters it; where to write is still open."""
    T, B, S = tape.T, tape.B, cell.state_size
    sizes = {"V": V, "T": T, "B": B, "S": S, "A": cell.preact_size, "H": cell.hidden_size}
    s = tape.s.contiguous()
    check("tape.s", s[1:], "T B S", sizes)
    x = tape.x if with_x else None
    arguments = Arguments(cell, number, x, s, tape.active, tape.reset)
    arguments.alive.append(s)
    sweep = arguments.sweep
    sweep.V = V
    if number > 0:
        sweep.a = arguments.keep("tape.saved[0]", tape.saved[0], "T B A", sizes)
    if number == 2:
        sweep.q = arguments.keep("tape.saved[1]", tape.saved[1], "T B H", sizes)
    if g is not None:
        arguments.add_direct(g, V)
    if delta_T is not None:
        sweep.delta_T = arguments.keep("delta_T", delta_T, "V B S", sizes)
    return arguments


def _size_obstacle(T: int, rows: int) -> str:
    if T == 0 or rows == 0:
        return "there is nothing to compute: no step or no row."
    return "" if max(T + 1, rows) <= _LIMIT else "there are more rows or steps than 2³¹ − 1."
