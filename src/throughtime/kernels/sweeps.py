"""The two sweeps of `throughtime.sweep`, compiled where a kernel applies."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .. import sweep as reference
from ..cells import GRU, LSTM, AbstractCell, Elman
from ..shapes import check
from ..tape import Tape
from . import blocks, native, scan
from .choose import decide, in_torch
from .steps import Arguments, Span

__all__ = ["Outputs", "backward", "bare", "complete", "forward", "outputs", "taken"]

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
        way = scan if in_torch(cell) == "scan" else reference
        return way.forward(cell, taken(x, active), s_0, active, reset)
    with torch.no_grad():
        return complete(cell, _keep(cell, number, x, s_0, active, reset))


# How many of the tensors that a cell saves are no states of the tape.
OWN: dict[type[AbstractCell], int] = {Elman: 0, LSTM: 1, GRU: 2}


def bare(cell: AbstractCell, tape: Tape) -> Tape:
    """Give the tape without what `complete` can put back."""
    own = OWN.get(type(cell), len(tape.saved))
    return Tape(tape.x, tape.s, tape.saved[:own], tape.active, tape.reset)


def complete(cell: AbstractCell, tape: Tape) -> Tape:
    """Give the tape as `sweep.forward` would have kept it, from one that may be bare."""
    x = taken(tape.x, tape.active)
    if len(tape.saved) != OWN.get(type(cell), -1):
        states = ()
    elif type(cell) is Elman:
        states = (tape.s[1:],)
    elif type(cell) is LSTM:
        states = (tape.s_prev(), tape.s[1:])
    else:
        states = (tape.s_prev(),)
    return Tape(x, tape.s, (*tape.saved, *states), tape.active, tape.reset)


class Outputs(NamedTuple):
    """What a layer puts out.

    Attributes:
        h: (T, B, H), 0 where a row takes no step.
        s_T: the final state (B, S).
        tape: what the way back needs, bare, or None. ``h`` may share its memory with the tape's
            states.
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
            way = scan if in_torch(cell) == "scan" else reference
            tape = way.forward(cell, taken(x, active), s_0, active, reset, keep=keep)
            h = _shown(tape.s, H) if active is None else taken(tape.s[1:, :, :H], active)
            return Outputs(h, tape.s[-1].clone(), bare(cell, tape) if keep else None)
        own = not keep or active is not None or cell.state_size > H
        h = native.empty(x, *x.shape[:2], H) if own else None
        if keep:
            tape = _keep(cell, number, x, s_0, active, reset, h)
            return Outputs(_shown(tape.s, H) if h is None else h, tape.s[-1].clone(), tape)
        s = x.new_empty(2, x.shape[1], cell.state_size)
        s[0] = s_0
        arguments = Arguments(cell, number, x, s, active, reset, back=False)
        arguments.sweep.keep, arguments.sweep.h = 0, native.pointer(h)
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


def taken(rows: Tensor, active: Tensor | None) -> Tensor:
    """Give rows (T, B, ·) with 0 where no step is taken: a NaN there must not count, as 0·NaN."""
    return rows if active is None else rows.masked_fill(~active[..., None], 0)


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


def _keep(
    cell: AbstractCell,
    number: int,
    x: Tensor,
    s_0: Tensor,
    active: Tensor | None,
    reset: Tensor | None,
    h: Tensor | None = None,
) -> Tape:
    """Run the compiled sweep and give its tape, bare."""
    T, B, _ = x.shape
    if s_0.shape != (B, cell.state_size):
        check("s_0", s_0, "B S", {"B": B, "S": cell.state_size})
    s = native.empty(x, T + 1, B, cell.state_size)
    s[0] = s_0
    arguments = Arguments(cell, number, x, s, active, reset, back=False)
    widths = (cell.preact_size, cell.hidden_size)[:number]
    own = tuple(native.empty(x, T, B, width) for width in widths)
    for name, kept in zip(("a", "q"), own, strict=False):
        setattr(arguments.sweep, name, kept.data_ptr())
    arguments.sweep.h = native.pointer(h)
    native.run(arguments.sweep, back=False)
    return Tape(x, s, own, active, reset)


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
        tape = complete(cell, tape)
        if in_torch(cell) == "blocks" and g.shape[0] == 1:
            return blocks.backward(cell, tape, g, delta_T)  # pyright: ignore[reportArgumentType]
        way = scan if in_torch(cell) == "scan" else reference
        return way.backward(cell, tape, g, delta_T)
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
    sweep.g_sparse = g is not None and g.dim() == 3
    for name, where in (("enters", enters), ("floors", floors)):
        if where is not None:
            numbers = where.to(torch.int32).clamp(-1, tape.T)
            setattr(sweep, name, arguments.keep(name, numbers, "V", V))
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
    s = tape.s.contiguous()
    if s.shape[2] != S:
        check("tape.s", s, "T B S", {"S": S})
    x = tape.x if with_x else None
    arguments = Arguments(cell, number, x, s, tape.active, tape.reset, back=True)
    if arguments.T != T:
        check("tape.x", tape.x, "T B I", {"T": T, "B": B})
    arguments.alive.append(s)
    arguments.add_tape(tape)
    arguments.sweep.V = V
    if g is not None:
        arguments.add_direct(g, V)
    if delta_T is not None:
        lead = delta_T if delta_T.dim() == 3 else delta_T[None]
        arguments.sweep.delta_T = arguments.keep("delta_T", lead, "V B S", V, B, S)
    return arguments


def _size_obstacle(T: int, rows: int) -> str:
    if T == 0 or rows == 0:
        return "there is nothing to compute: no step or no row."
    return "" if max(T + 1, rows) <= _LIMIT else "there are more rows or steps than 2³¹ − 1."
