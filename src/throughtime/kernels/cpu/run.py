"""The compiled sweeps, run into tensors made for their results."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...cells import AbstractCell
from ...shapes import check_shape
from ...tape import Gradients, Tape
from . import library
from .arguments import Arguments

__all__ = ["Widths", "back_arguments", "make_room", "run_back", "run_forward", "run_gradients"]


class Widths(NamedTuple):
    """The widths of what a cell's forward sweep reads and writes; asking the cell takes a µs.

    Attributes:
        I: of the input.
        H: of the output.
        S: of the state.
        parts: of the parts of the final state.
        kept: of what the cell saves at each step.
    """

    I: int
    H: int
    S: int
    parts: tuple[int, ...]
    kept: tuple[int, ...]

    @classmethod
    def of(cls, cell: AbstractCell) -> Widths:
        """Return those of a cell."""
        kept = tuple(cell.kept_widths() or ())
        return cls(cell.input_size, cell.hidden_size, cell.state_size, tuple(cell.parts()), kept)


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
    """Run the compiled sweep into ``h``; return the final state and, if it is kept, the bare tape.

    The final state is in the cell's ``parts``, each (1, B, ·) with memory of its own.
    """
    T, B, _ = x.shape
    arguments = Arguments(cell, number, T, B, x, active, reset, back=False)
    sweep = arguments.sweep
    sweep.keep, sweep.h = keep, library.pointer(h)
    if s_0 is not None:
        sweep.s_0 = arguments.keep("s_0", s_0, "B S", B, cell.state_size)
    finals, kept = make_room(sweep, Widths.of(cell), x)
    library.run_sweep(sweep, back=False)
    return finals, Tape(x, kept[0], kept[1:], active, reset) if keep else None


def make_room(
    sweep: library.Sweep, widths: Widths, x: Tensor
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Allocate what a forward sweep writes besides h, and note where it is.

    Returns:
        The final state by parts, each (1, B, ·); and what is kept, if anything: s (T+1, B, S) and
        the cell's own, (T, B, ·).
    """
    B, H, S = sweep.B, widths.H, widths.S
    finals = []
    for width in widths.parts:
        finals.append(x.new_empty(1, B, width))
    sweep.h_T, sweep.final_stride_b = finals[0].data_ptr(), widths.parts[0]
    if S > H:  # c is a part of its own, or follows h in the same one
        sweep.c_T = (finals[1] if len(finals) == 2 else finals[0][..., H:]).data_ptr()
    if not sweep.keep:
        return tuple(finals), ()
    T = sweep.T
    s = library.empty(x, T + 1, B, S)
    kept, sweep.s = [s], s.data_ptr()
    for i, width in enumerate(widths.kept):
        kept.append(library.empty(x, T, B, width))
        sweep.kept[i] = kept[-1].data_ptr()
    return tuple(finals), tuple(kept)


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
    """Run the compiled backward sweep into the given arrays, and return dE/ds_0 (V, B, S).

    Args:
        cell: the recurrence.
        number: of its compiled kernel.
        tape: what its forward sweep kept.
        g: direct gradients (V, T, B, G); or (T, B, G), of which loss v takes step ``enters[v]``.
        delta_T: what else arrives at s_T, (V, B, S).
        V: how many losses there are, if neither ``g`` nor ``delta_T`` shows it.
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
    library.run_sweep(sweep, back=True)
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
    """Describe the backward pass over a tape and what enters it, but not yet where to write."""
    T, B, S = tape.T, tape.B, cell.state_size
    s = tape.s.contiguous()
    if s.shape[2] != S or s.dtype is not cell.weight_hh.dtype:
        check_shape("tape.s", s, "T B S", {"S": S}, like=cell.weight_hh)  # pyright: ignore
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


def run_gradients(
    sweep: library.Sweep, cell: AbstractCell, x: Tensor, weights: dict[str, Tensor], want_x: bool
) -> Gradients:
    """Run the compiled backward pass into newly made gradients.

    Args:
        sweep: the arguments, except what is to be written.
        cell: the recurrence.
        x: inputs (T, B, I).
        weights: the weights whose gradients are wanted, by name.
        want_x: whether dE/dx is wanted.
    """
    found = {name: x.new_empty(weight.shape) for name, weight in weights.items()}
    grad_x = library.empty(x, *x.shape) if want_x else None
    delta_0 = x.new_empty(sweep.B, cell.state_size)
    sweep.grads, sweep.delta_0, sweep.grad_x = 1, delta_0.data_ptr(), library.pointer(grad_x)
    for name, grad in found.items():
        setattr(sweep, f"grad_{name}", grad.data_ptr())
    library.run_sweep(sweep, back=True)
    return Gradients(found, grad_x, delta_0)
