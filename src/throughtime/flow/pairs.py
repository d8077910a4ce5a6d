"""The norms of all pairs (t, k) from one sweep with a leading axis of losses (eq. 9)."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ..cells.base import AbstractCell
from ..kernels import losses
from ..tape import Tape

__all__ = ["Swept", "sweep_losses"]


class Swept(NamedTuple):
    """What one sweep over V losses returned.

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
    found = losses(cell, tape, g, enters=enters, floors=floor, adjoints=want_x)
    assert found.norms is not None
    x = None if found.adjoints is None else cell.input_grad(found.adjoints)
    return Swept(found.norms, x, found.s_0)
