"""The two sweeps through time in plain torch: the reference for every kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from .cells.base import AbstractCell
from .errors import ShapeError
from .tape import Tape

__all__ = ["adjoints", "backward", "check_result", "forward", "mask", "unroll"]


def forward(
    cell: AbstractCell,
    x: Tensor,
    s_0: Tensor,
    active: Tensor | None = None,
    reset: Tensor | None = None,
    *,
    keep: bool = True,
) -> Tape:
    """Run the recurrence over all steps and keep the tape (eq. 1).

    Args:
        cell: the recurrence.
        x: inputs (T, B, I).
        s_0: the initial state (B, S).
        active: (T, B) bool; rows that are False keep their state.
        reset: (T, B) bool; where True the state is zeroed before the step.
        keep: whether the backward pass will be taken; without it the tape holds only the states.

    Cost:
        one GEMM for all inputs and one per step; memory T·B·(S + what the cell saves).

    Example:
        >>> from throughtime.cells import Elman
        >>> forward(Elman(3, 5), torch.zeros(7, 2, 3), torch.zeros(2, 5)).s.shape
        torch.Size([8, 2, 5])
    """
    with torch.no_grad():
        a = cell.drive(x)
        T = x.shape[0]
        s = a.new_empty(T + 1, *s_0.shape)
        s[0] = s_0
        buffers: list[Tensor] = []
        # Views of all steps at once: indexing at each step would cost as much as a small operation.
        a_each, s_each = a.unbind(0), s.unbind(0)
        for t in range(1, T + 1):
            s_prev = s_each[t - 1]
            if reset is not None:
                s_prev = s_prev.masked_fill(reset[t - 1, :, None], 0)
            result = cell.step(a_each[t - 1], s_prev)
            if t == 1:
                check_result(cell, "step", result, s_prev.shape, "s_t", "what vjp needs")
            s_t, saved = result
            taken = s_t if active is None else torch.where(active[t - 1, :, None], s_t, s_prev)
            s_each[t].copy_(taken)
            if not keep:
                continue
            if t == 1:
                # A state or a_t itself is already kept whole, in ``s`` or ``a``.
                whole = {id(s_t): s[1:], id(a_each[0]): a}
                if reset is None:
                    whole[id(s_prev)] = s[:-1]
                buffers = [whole.get(id(k), k.new_empty(T, *k.shape)) for k in saved]
            for buffer, kept in zip(buffers, saved, strict=True):
                known = kept is s_t or kept is a_each[t - 1] or (kept is s_prev and reset is None)
                if not known:
                    buffer[t - 1] = kept
    return Tape(x, s, tuple(buffers), active, reset)


def adjoints(
    cell: AbstractCell,
    tape: Tape,
    g: Tensor,
    delta: Tensor,
    last: int | None = None,
    first: int = 1,
    under_way: Callable[[int], slice | None] | None = None,
    enter: Callable[[Tensor, slice, int], None] | None = None,
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Go back through time (eq. 9), one step at a time: delta_{t-1} = J_tᵀ delta_t + g_{t-1}.

    Args:
        cell: the recurrence.
        tape: what its forward sweep kept.
        g: direct gradients (V, T, B, G) into the first G ≤ S entries of s_1…s_T.
        delta: what arrives at s_last from beyond it, (V, B, S); not written to.
        last: the step to begin at; T by default.
        first: the step to end at.
        under_way: returns the losses that take step t, as a slice of V, or None where none does.
            The others' delta stays as it is. By default every loss takes every step.
        enter: adds what enters at step t to the delta of these losses; by default ``g``.

    Yields:
        t, delta_t (V, B, S) and the adjoint of step t (V, B, A) of the losses under way, for
        t = last … first; then first − 1, delta_{first−1} of all losses and an empty tensor.
    """
    G = g.shape[-1]
    checked = False
    if under_way is not None:
        delta = delta.clone()
    last = tape.T if last is None else last
    below = max(first, 1) - 1
    back = cell.swept(tape if (below, last) == (0, tape.T) else tape.steps(below + 1, last))
    for t in range(last, below, -1):
        here = slice(None) if under_way is None else under_way(t)
        if here is None:
            continue
        delta_t = delta[here].clone()
        if enter is None:
            delta_t[..., :G] += g[here, t - 1]
        else:
            enter(delta_t, here, t)
        result = back(t - below, delta_t)
        if not checked:
            check_result(cell, "vjp", result, delta_t.shape, "J_tᵀ delta", "the adjoint")
            checked = True
        delta_prev, adjoint = mask(tape, t, delta_t, *result)
        yield t, delta_t, adjoint
        if under_way is None:
            delta = delta_prev
        else:
            delta[here] = delta_prev
    yield first - 1, delta, delta.new_empty(0)


def check_result(
    cell: AbstractCell, method: str, result: Any, shape: torch.Size, first: str, second: str
) -> None:
    """Raise unless a cell's method returned a pair whose first part has this shape.

    Raises:
        ShapeError: it returned something else.
    """
    pair = isinstance(result, tuple) and len(result) == 2
    if pair and isinstance(result[0], Tensor) and result[0].shape == shape:
        return
    got = result[0] if pair else result
    told = str(tuple(got.shape)) if isinstance(got, Tensor) else type(got).__name__
    told = told if pair else f"{told} alone"
    raise ShapeError(
        f"{type(cell).__name__}.{method} must return {first} {tuple(shape)} and {second}; got "
        f"{told}. throughtime.testing.check_cell(cell) checks all of it."
    )


def mask(
    tape: Tape, t: int, delta: Tensor, delta_prev: Tensor, adjoint: Tensor
) -> tuple[Tensor, Tensor]:
    """Let no gradient pass a reset, and all of it pass a step that a row does not take."""
    if tape.reset is not None:
        delta_prev = delta_prev.masked_fill(tape.reset[t - 1, :, None], 0)
    if tape.active is not None:
        takes = tape.active[t - 1, :, None]
        delta_prev = torch.where(takes, delta_prev, delta)
        adjoint = torch.where(takes, adjoint, 0)
    return delta_prev, adjoint


def backward(
    cell: AbstractCell, tape: Tape, g: Tensor, delta_T: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Send V losses back through all steps in one sweep (eq. 9).

    Args:
        cell: the recurrence.
        tape: what its forward sweep kept.
        g: direct gradients (V, T, B, G) into the first G ≤ S entries of s_1…s_T.
        delta_T: what else arrives at s_T, (V, B, S).

    Returns:
        The adjoints (V, T, B, A), and dE/ds_0 (V, B, S).

    Cost:
        one GEMM per step over V·B rows; memory V·T·B·A.
    """
    V, T, B, _ = g.shape
    delta = g.new_zeros(V, B, cell.state_size) if delta_T is None else delta_T
    out: Tensor | None = None
    with torch.no_grad():
        for t, delta_t, adjoint in adjoints(cell, tape, g, delta):
            delta = delta_t
            if t:
                if out is None:
                    out = adjoint.new_empty(V, T, B, adjoint.shape[-1])
                out[:, t - 1] = adjoint
    assert out is not None
    return out, delta


def unroll(
    cell: AbstractCell,
    x: Tensor,
    s_0: Tensor,
    active: Tensor | None = None,
    reset: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Run the recurrence as a chain of autograd operations: h (T, B, H) and s_T (B, S).

    This is slow, since it builds an autograd graph of every step. Second derivatives, forward mode
    and `torch.func` need it, and it serves as an oracle. As in a layer, the output is 0 where a row
    takes no step.
    """
    if active is not None:  # a NaN where no step is taken must not count, as 0·NaN
        x = x.masked_fill(~active[..., None], 0)
    a, s, h = cell.drive(x), s_0, []
    whole = cell.hidden_size == cell.state_size
    for t in range(x.shape[0]):
        if reset is not None:
            s = torch.where(reset[t, :, None], 0, s)
        s_t, _ = cell.step(a[t], s)
        s = s_t if active is None else torch.where(active[t, :, None], s_t, s)
        h.append(s if whole else s[:, : cell.hidden_size])
    out = torch.stack(h)
    return out if active is None else torch.where(active[..., None], out, 0), s
