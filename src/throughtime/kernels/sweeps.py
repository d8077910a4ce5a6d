"""The two sweeps of `throughtime.sweep`, compiled where a kernel applies."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import sweep as reference
from ..cells import AbstractCell
from ..shapes import check
from ..tape import Tape
from . import blocks, native, scan
from .bare import complete, taken
from .choose import decide, in_torch
from .steps import Arguments, Span

__all__ = [
    "back_arguments",
    "backward",
    "decide_back",
    "decide_forward",
    "forward",
    "make_room",
    "run_back",
    "run_forward",
    "size_obstacle",
]

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
    number = decide_forward(cell, x, s_0, active, reset)
    if number is None:
        way = scan if in_torch(cell) == "scan" else reference
        return way.forward(cell, taken(x, active), s_0, active, reset)
    _, tape = run_forward(cell, number, x, s_0, active, reset)
    assert tape is not None
    with torch.no_grad():
        return complete(cell, tape)


def decide_forward(
    cell: AbstractCell, x: Tensor, s_0: Tensor | None, active: Tensor | None, reset: Tensor | None
) -> int | None:
    """Give the number of the compiled kernel for the way forward, or None for the reference."""
    obstacle = size_obstacle(x.shape[0], x.shape[1])
    number = decide(cell, x, s_0, active, reset, obstacle=obstacle)
    if number is None:
        return None
    span = None if active is None else Span.of(active)
    if span is not None and span.obstacle:
        number = decide(cell, obstacle=span.obstacle)
    return number


def run_forward(
    cell: AbstractCell,
    number: int,
    x: Tensor,
    s_0: Tensor | None,
    active: Tensor | None,
    reset: Tensor | None,
    h: Tensor | None = None,
    keep: bool = True,
) -> tuple[tuple[Tensor, ...], Tape | None]:
    """Run the compiled sweep into ``h``; give the final state, and where it is kept the bare tape.

    The final state comes by the cell's ``parts``, each (1, B, ·) with memory of its own.
    """
    T, B, _ = x.shape
    arguments = Arguments(cell, number, T, B, x, active, reset, back=False)
    sweep = arguments.sweep
    sweep.keep, sweep.h = keep, native.pointer(h)
    if s_0 is not None:
        sweep.s_0 = arguments.keep("s_0", s_0, "B S", B, cell.state_size)
    finals, kept = make_room(sweep, cell, x)
    native.run(sweep, back=False)
    return finals, Tape(x, kept[0], kept[1:], active, reset) if keep else None


def make_room(
    sweep: native.Sweep, cell: AbstractCell, x: Tensor
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Make what a forward sweep is to write beside h, and say where it is.

    Returns:
        The final state by parts, each (1, B, ·); and what is kept, if anything is: s (T+1, B, S)
        and the cell's own, (T, B, ·).
    """
    T, B, H, S = sweep.T, sweep.B, cell.hidden_size, cell.state_size
    finals = tuple(x.new_empty(1, B, width) for width in cell.parts())
    sweep.h_T, sweep.final_stride_b = finals[0].data_ptr(), finals[0].shape[-1]
    if S > H:  # c in a part of its own, or behind h in the same one
        behind = finals[0][..., H:]
        sweep.c_T = finals[1].data_ptr() if len(finals) == 2 else behind.data_ptr()
    if not sweep.keep:
        return finals, ()
    s = native.empty(x, T + 1, B, S)
    kept, sweep.s = (s,), s.data_ptr()
    for i, size in enumerate(native.kept_sizes(sweep.cell, H)):
        own = native.empty(x, T, B, size)
        kept, sweep.kept[i] = (*kept, own), own.data_ptr()
    return finals, kept


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
        adjoints = native.empty(g, *g.shape[:3], native.facts(number).adjoint * cell.hidden_size)
        return adjoints, run_back(cell, number, tape, g, delta_T, adjoints=adjoints)


def decide_back(
    cell: AbstractCell, tape: Tape, g: Tensor | None, delta_T: Tensor | None, V: int = 1
) -> int | None:
    """Give the number of the compiled kernel for the way back, or None for the reference."""
    obstacle = size_obstacle(tape.T, V * tape.B)
    if tape.active is not None and tape.active.is_cpu:  # elsewhere `decide` says no
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
            setattr(sweep, name, arguments.keep(name, numbers, "V", V, dtype=torch.int32))
    for name, array in out.items():
        if array is not None:
            assert array.is_contiguous() and array.dtype == tape.s.dtype
            setattr(sweep, name, array.data_ptr())
            if name == "adjoints":
                sweep.adjoint_size = array.shape[-1]
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
    if s.shape[2] != S or s.dtype is not cell.weight_hh.dtype:
        check("tape.s", s, "T B S", {"S": S}, like=cell.weight_hh)  # pyright: ignore
    x = tape.x if with_x else None
    arguments = Arguments(cell, number, T, B, x, tape.active, tape.reset, back=True)
    arguments.alive.append(s)
    arguments.add_tape(tape)
    arguments.sweep.s, arguments.sweep.V = s.data_ptr(), V
    if g is not None:
        arguments.add_direct(g, V)
    if delta_T is not None:
        lead = delta_T if delta_T.dim() == 3 else delta_T[None]
        arguments.sweep.delta_T = arguments.keep("delta_T", lead, "V B S", V, B, S)
    return arguments


def size_obstacle(T: int, rows: int) -> str:
    """Give what speaks against the compiled kernel in so many steps and rows, or nothing."""
    if T == 0 or rows == 0:
        return "there is nothing to compute: no step or no row."
    return "" if max(T + 1, rows) <= _LIMIT else "there are more rows or steps than 2³¹ − 1."
