"""The norms of all pairs (t, k) from one sweep with a leading axis of losses (eq. 9)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .. import kernels
from ..cells.base import AbstractCell
from ..norms import vector_norm
from ..sweep import mask
from ..tape import Tape

__all__ = ["Swept", "sweep_losses"]


class Swept(NamedTuple):
    """What one sweep over V losses gave.

    Attributes:
        norms: ‖∂E_v/∂s_k‖₂ (V, T+1, B).
        x: ∂E_v/∂x (V, T, B, I), if asked for.
        s_0: ∂E_v/∂s_0 (V, B, S).
    """

    norms: Tensor
    x: Tensor | None
    s_0: Tensor


def sweep_losses(
    cell: AbstractCell,
    tape: Tape,
    g: Tensor,
    floor: Tensor,
    *,
    enters: Tensor | None = None,
    want_x: bool = False,
) -> Swept:
    """Send V losses back in one sweep, each only over the steps between its entry and its floor.

    Args:
        cell: the recurrence.
        tape: what its forward sweep kept.
        g: direct gradients (V, T, B, G); or, with ``enters``, (T, B, G).
        floor: (V,) the lowest k that each loss is followed to.
        enters: (V,) the one step from 1 to T at which each loss enters, with ``g`` of that step;
            0 for a loss that does not.
        want_x: whether the inputs' gradients are wanted too.

    Cost:
        Σ_v (entry − floor) steps of B rows; memory V·B·S, and V·T·B·I for the inputs.
    """
    if kernels.choice(cell, tape.s, g).name == "native":
        if enters is not None and not want_x and len(enters) > 1:
            return _until_underflow(cell, tape, g, floor, enters)
        found = kernels.losses(cell, tape, g, enters=enters, floors=floor, adjoints=want_x)
        assert found.norms is not None
        x = None if found.adjoints is None else cell.input_grad(found.adjoints)
        return Swept(found.norms, x, found.s_0)
    return _reference(cell, tape, g, floor, enters, want_x)


def _until_underflow(
    cell: AbstractCell, tape: Tape, g: Tensor, floor: Tensor, enters: Tensor
) -> Swept:
    """Follow each loss no further than to where its gradient has underflowed to exactly 0.

    The last loss is sent back alone, and the lag at which it underflows, with a margin, tried on
    the others. What is 0 stays 0, so those that are 0 at their floor are done; the rest, if any,
    are sent back whole.
    """
    last = int(enters.argmax())
    one = kernels.losses(
        cell, tape, g, enters=enters[last : last + 1], floors=floor[last : last + 1]
    )
    assert one.norms is not None
    arrived = (one.norms[0] != 0).any(1).nonzero().flatten()
    underflow = int(enters[last] - arrived[0]) if len(arrived) else 0
    raised = torch.maximum(floor, enters - (underflow + underflow // 4 + 16))
    found = kernels.losses(cell, tape, g, enters=enters, floors=raised)
    norms, s_0 = found.norms, found.s_0
    assert norms is not None
    at_floor = norms[torch.arange(len(enters), device=g.device), raised.clamp(min=0)]
    open_ = ((raised > floor) & (at_floor != 0).any(1)).nonzero().flatten()
    if len(open_):
        rest = kernels.losses(cell, tape, g, enters=enters[open_], floors=floor[open_])
        assert rest.norms is not None
        norms[open_], s_0[open_] = rest.norms, rest.s_0
    return Swept(norms, None, s_0)


def _reference(
    cell: AbstractCell,
    tape: Tape,
    g: Tensor,
    floor: Tensor,
    enters: Tensor | None,
    want_x: bool,
) -> Swept:
    """Do it in plain torch."""
    V, T, B, G = len(floor), tape.T, tape.B, g.shape[-1]
    if enters is None:
        steps = torch.arange(1, T + 1, device=g.device)
        entered = (g != 0).flatten(2).any(-1)
        entry = (entered * steps).amax(1)
        final_entry = torch.where(entered, steps, T + 1).amin(1)
    else:
        entry = final_entry = enters
    # Sorted by entry, the losses under way at any step are neighbours.
    order = torch.argsort(entry, stable=True)
    back = torch.argsort(order)
    sorted_already = bool((order[:-1] < order[1:]).all())
    if not sorted_already:
        g = g[order] if enters is None else g
        entry, floor, final_entry = entry[order], floor[order], final_entry[order]
    norms = g.new_zeros(V, T + 1, B)
    grad_x = g.new_zeros(V, T, B, cell.input_size) if want_x else None
    delta = g.new_zeros(V, B, cell.state_size)
    last, lowest = int(entry[-1]), int(floor.min())
    done = torch.zeros(V, dtype=torch.bool, device=g.device)
    for t in range(last, max(lowest, 1) - 1, -1):
        under_way = ((entry >= t) & (floor <= t) & ~done).nonzero()
        if not len(under_way):
            continue
        rows = slice(int(under_way[0]), int(under_way[-1]) + 1)
        if enters is None:
            delta[rows, :, :G] += g[rows, t - 1]
        else:
            delta[rows, :, :G] += torch.where((entry[rows] == t)[:, None, None], g[t - 1], 0)
        norms[rows, t] = vector_norm(delta[rows])
        # A loss whose gradient has underflowed to exactly 0, with nothing more to enter, is done.
        done[rows] = (norms[rows, t] == 0).all(1) & (final_entry[rows] >= t)
        delta_prev, adjoint = cell.vjp(tape.at(t), delta[rows])
        delta_prev, adjoint = mask(tape, t, delta[rows], delta_prev, adjoint)
        if grad_x is not None:
            grad_x[rows, t - 1] = cell.input_grad(adjoint)
        delta[rows] = delta_prev
    if lowest == 0:
        norms[:, 0] = vector_norm(delta).masked_fill((floor > 0)[:, None], 0)
    if not sorted_already:
        norms, delta = norms[back], delta[back]
        grad_x = None if grad_x is None else grad_x[back]
    return Swept(norms, grad_x, delta)
