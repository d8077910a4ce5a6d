"""Many losses sent back in one sweep, each over its own steps: what the (t, k) flow is made of."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .. import sweep as reference
from ..cells import AbstractCell
from ..errors import InputValueError
from ..norms import vector_norm
from ..tape import Tape
from . import scan, sweeps
from .choose import in_torch

__all__ = ["Losses", "losses"]


class Losses(NamedTuple):
    """What V losses gave on their way back.

    Attributes:
        norms: ‖∂E_v/∂s_k‖₂ (V, T+1, B); exactly 0 above the loss and below its floor. None if not
            asked for; so with the next two.
        deltas: ∂E_v/∂s_k itself (V, T+1, B, S).
        adjoints: ∂E_v/∂a_t (V, T, B, A).
        s_0: ∂E_v/∂s_0 (V, B, S); 0 for a loss that is not followed so far.
    """

    norms: Tensor | None
    deltas: Tensor | None
    adjoints: Tensor | None
    s_0: Tensor


def losses(
    cell: AbstractCell,
    tape: Tape,
    g: Tensor,
    *,
    enters: Tensor | None = None,
    floors: Tensor | None = None,
    norms: bool = True,
    deltas: bool = False,
    adjoints: bool = False,
) -> Losses:
    """Send V losses back in one sweep, each only between its entry and its floor (eq. 9).

    Args:
        cell: the recurrence.
        tape: what its forward sweep kept.
        g: direct gradients (V, T, B, G); or, with ``enters``, (T, B, G): loss v enters at step
            ``enters[v]`` alone, and with ``g`` of that step.
        enters: (V,) steps from 1 to T; 0 for a loss that does not enter.
        floors: (V,) the lowest k that each loss is followed to; None: 0.
        norms: whether the norms are wanted; they neither overflow nor underflow where the vectors
            do not, and the vectors are not kept for them.
        deltas: whether the vectors are wanted.
        adjoints: whether the adjoints are wanted; down to step floor (from 1).

    Raises:
        InputValueError: ``enters`` is missing for a ``g`` without the axis V, or superfluous.

    Cost:
        Σ_v (entry − floor) steps of 2·B·A·H operations; memory V·B·(A + S), and what is asked for.

    Example:
        >>> from throughtime.cells import Elman
        >>> cell = Elman(3, 5)
        >>> tape = sweeps.forward(cell, torch.zeros(7, 2, 3), torch.zeros(2, 5))
        >>> losses(cell, tape, torch.ones(7, 2, 5), enters=torch.arange(1, 8)).norms.shape
        torch.Size([7, 8, 2])
    """
    if (enters is None) != (g.dim() == 4):
        raise InputValueError(
            f"g must be (V, T, B, G), or (T, B, G) with enters (V,); got {tuple(g.shape)} "
            f"{'without' if enters is None else 'with'} enters."
        )
    with torch.no_grad():
        V = g.shape[0] if enters is None else enters.shape[0]
        number = sweeps.decide_back(cell, tape, g, None, V=V)
        if number is None:
            return _reference(cell, tape, g, enters, floors, (norms, deltas, adjoints))
        T, B, A, S = tape.T, tape.B, cell.preact_size, cell.state_size
        last = _last_entry(g) if enters is None else enters
        new = tape.s.new_empty
        found = Losses(
            new(V, T + 1, B) if norms else None,
            new(V, T + 1, B, S) if deltas else None,
            new(V, T, B, A) if adjoints else None,
            tape.s,
        )
        s_0 = sweeps.run_back(
            cell, number, tape, g, V=V, enters=last - 1, floors=floors,
            adjoints=found.adjoints, norms=found.norms, deltas=found.deltas,
        )  # fmt: skip
        return found._replace(s_0=s_0)


def _last_entry(g: Tensor) -> Tensor:
    """Give the last step, from 1, at which each loss has a gradient that is not 0."""
    entered = (g != 0).flatten(2).any(-1)
    return (entered * torch.arange(1, g.shape[1] + 1, device=g.device)).amax(1)


def _reference(
    cell: AbstractCell,
    tape: Tape,
    g: Tensor,
    enters: Tensor | None,
    floors: Tensor | None,
    wanted: tuple[bool, bool, bool],
) -> Losses:
    """Do the same with the sweep in plain torch, over all steps."""
    if enters is not None:
        steps = torch.arange(1, tape.T + 1, device=g.device)
        own = (enters[:, None] == steps)[:, :, None, None]
        g = torch.where(own, g, 0)
    V, T, B, A, S = len(g), tape.T, tape.B, cell.preact_size, cell.state_size
    deltas, adjoints = g.new_zeros(V, T + 1, B, S), g.new_zeros(V, T, B, A)
    start = g.new_zeros(V, B, S)
    way = scan if in_torch(cell) == "scan" else reference
    for t, delta, adjoint in way.adjoints(cell, tape, g, start):
        deltas[:, t] = delta
        if t:
            adjoints[:, t - 1] = adjoint[..., :A]
    s_0 = deltas[:, 0].clone()
    if floors is not None:
        k = torch.arange(T + 1, device=g.device)
        below = k < floors[:, None]
        deltas.masked_fill_(below[:, :, None, None], 0)
        adjoints.masked_fill_(below[:, 1:, None, None], 0)
        s_0.masked_fill_((floors > 0)[:, None, None], 0)
    return Losses(
        vector_norm(deltas) if wanted[0] else None,
        deltas if wanted[1] else None,
        adjoints if wanted[2] else None,
        s_0,
    )
