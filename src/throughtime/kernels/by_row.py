"""Each batch row's own share of the weight gradients, from one backward sweep."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..cells import AbstractCell, Function
from ..tape import Tape
from . import sweeps
from .bare import complete, taken

__all__ = ["COLLECTORS", "gradients", "param_grads_by_row"]

# Who wants the rows' shares while backward runs: called with a weight and its share of each row.
# In all threads, since autograd runs backward in threads of its own.
COLLECTORS: list[Callable[[Tensor, Tensor], None]] = []


def gradients(
    cell: AbstractCell,
    tape: Tape,
    g: Tensor | None,
    delta_T: Tensor | None,
    names: Sequence[str],
    want_x: bool,
) -> tuple[dict[str, Tensor], Tensor | None, Tensor]:
    """Send one loss back, give every gradient that is wanted and collect the rows' (eq. 5, 9).

    Args:
        cell: the recurrence.
        tape: what its forward sweep kept.
        g: direct gradients (T, B, G) into the first G ≤ S entries of s_1…s_T; None: nowhere.
        delta_T: what else arrives at s_T, (B, S).
        names: the weights whose gradients are wanted.
        want_x: whether dE/dx is wanted.

    Returns:
        dE/dW by name, dE/dx (T, B, I) or None, and dE/ds_0 (B, S).

    Cost:
        a backward sweep and a batched GEMM for each weight; memory B times the weights.

    Raises:
        UnsupportedError: the rows of a step depend on each other.
    """
    if isinstance(cell, Function):
        cell.need_rows_apart(
            "has no gradient of a row by itself", "take the gradients of batches of one row"
        )
    if g is None:
        g = tape.s.new_zeros(tape.T, tape.B, cell.hidden_size)
    g = taken(g, tape.active)
    tape = complete(cell, tape)
    lead = None if delta_T is None else delta_T[None]
    adjoints, delta_0 = sweeps.backward(cell, tape, g[None], lead)
    by_row = param_grads_by_row(cell, tape, adjoints[0]) if names else {}
    weights = cell.weights()
    for name in names:
        for collect in COLLECTORS:
            collect(weights[name], by_row[name])
    x = cell.input_grad(adjoints[0]) if want_x else None
    return {name: by_row[name].sum(0) for name in names}, x, delta_0[0]


def param_grads_by_row(cell: AbstractCell, tape: Tape, adjoints: Tensor) -> dict[str, Tensor]:
    """Give each row's share of dE/dW, (B, ·), whose sum over rows is `param_grads` (eq. 5).

    What the cell does for a batch of one row is done for all by vmap, which makes one batched GEMM
    of each GEMM; row by row where the cell does something that vmap cannot.

    Args:
        cell: the recurrence.
        tape: the steps that ``adjoints`` belong to.
        adjoints: (T, B, A), as `vjp` gave them.

    Example:
        >>> from throughtime.cells import GRU
        >>> cell = GRU(3, 5)
        >>> tape = sweeps.forward(cell, torch.ones(7, 2, 3), torch.zeros(2, 5))
        >>> param_grads_by_row(cell, tape, torch.ones(7, 2, 15))["weight_hh"].shape
        torch.Size([2, 15, 5])
    """
    masks = {n: m for n, m in (("active", tape.active), ("reset", tape.reset)) if m is not None}

    def one(x: Tensor, s: Tensor, saved: tuple, adjoint: Tensor, masks: dict) -> dict[str, Tensor]:
        lone = Tape(
            x.unsqueeze(1),
            s.unsqueeze(1),
            tuple(kept.unsqueeze(1) for kept in saved),
            **{name: mask.unsqueeze(1) for name, mask in masks.items()},
        )
        return cell.param_grads(lone, adjoint.unsqueeze(1))

    try:
        return torch.func.vmap(one, in_dims=1)(tape.x, tape.s, tape.saved, adjoints, masks)
    except Exception:  # the same again without vmap: what is wrong with the cell itself shows there
        rows = [
            cell.param_grads(tape.rows(b, b + 1), adjoints[:, b : b + 1]) for b in range(tape.B)
        ]
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
