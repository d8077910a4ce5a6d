"""The five verbs for callers with a single sweep: each chooses an engine and calls it."""

from __future__ import annotations

from torch import Tensor

from ..cells import AbstractCell
from ..errors import InputValueError
from ..tape import Gradients, Tape
from .choose import choose, choose_back
from .engine import Losses, Outputs

__all__ = ["backward", "forward", "gradients", "losses", "outputs"]


def outputs(
    cell: AbstractCell,
    x: Tensor,
    s_0: Tensor | None,
    active: Tensor | None = None,
    reset: Tensor | None = None,
    *,
    keep: bool = True,
) -> Outputs:
    """Run the recurrence over all steps and return a layer's outputs (eq. 1).

    Args:
        cell: the recurrence.
        x: inputs (T, B, I).
        s_0: the initial state (B, S); None: zeros.
        active: (T, B) bool; rows that are False keep their state and output 0.
        reset: (T, B) bool, within ``active``; where True the state is zeroed before the step.
        keep: whether the backward pass will be taken.

    Cost:
        as `forward`; without ``keep`` memory T·B·H.

    Example:
        >>> from throughtime.cells import Elman
        >>> outputs(Elman(3, 5), torch.zeros(7, 2, 3), torch.zeros(2, 5)).h.shape
        torch.Size([7, 2, 5])
    """
    return choose(cell, x, s_0, active, reset).outputs(cell, x, s_0, active, reset, keep=keep)


def forward(
    cell: AbstractCell,
    x: Tensor,
    s_0: Tensor,
    active: Tensor | None = None,
    reset: Tensor | None = None,
) -> Tape:
    """Run the recurrence over all steps and return the tape (eq. 1), as `sweep.forward` does.

    Args:
        cell: the recurrence.
        x: inputs (T, B, I).
        s_0: the initial state (B, S).
        active: (T, B) bool; rows that are False keep their state. The compiled kernel takes rows
            whose steps are consecutive, either from the first on or up to the last.
        reset: (T, B) bool, within ``active``; where True the state is zeroed before the step.

    Cost:
        one GEMM for all inputs, and 2·B·A·H operations per step; a row costs its own length.

    Example:
        >>> from throughtime.cells import Elman
        >>> forward(Elman(3, 5), torch.zeros(7, 2, 3), torch.zeros(2, 5)).s.shape
        torch.Size([8, 2, 5])
    """
    return choose(cell, x, s_0, active, reset).forward(cell, x, s_0, active, reset)


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
        2·V·B·A·H operations per step; memory V·T·B·A.
    """
    return choose_back(cell, tape, g, delta_T).backward(cell, tape, g, delta_T)


def gradients(
    cell: AbstractCell,
    tape: Tape,
    g: Tensor | None,
    delta_T: Tensor | None = None,
    *,
    wants: frozenset[str] | None = None,
    want_x: bool = True,
) -> Gradients:
    """Send one loss back and return every gradient that is wanted (eq. 5, 9).

    Args:
        cell: the recurrence.
        tape: what its forward sweep kept.
        g: direct gradients (T, B, G) into the first G ≤ S entries of s_1…s_T, except that
            steps which a row does not take do not count, since it outputs 0 there; None: nowhere.
        delta_T: what else arrives at s_T, (B, S).
        wants: the weights whose gradients are wanted; None: all.
        want_x: whether dE/dx is wanted.

    Cost:
        a backward sweep and one GEMM each for W_x, W_h and x; memory T·B·(A + I).

    Example:
        >>> from throughtime.cells import Elman
        >>> cell = Elman(3, 5)
        >>> tape = forward(cell, torch.zeros(7, 2, 3), torch.zeros(2, 5))
        >>> gradients(cell, tape, torch.ones(7, 2, 5)).weights["weight_hh"].shape
        torch.Size([5, 5])
    """
    engine = choose_back(cell, tape, g, delta_T)
    return engine.gradients(cell, tape, g, delta_T, wants=wants, want_x=want_x)


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
        norms: whether the norms are wanted; they neither overflow nor underflow unless the vectors
            do, and the vectors are not kept for them.
        deltas: whether the vectors are wanted.
        adjoints: whether the adjoints are wanted, down to step ``floor`` (from 1).

    Raises:
        InputValueError: ``enters`` is missing for a ``g`` without the axis V, or superfluous.

    Cost:
        Σ_v (entry − floor) steps of 2·B·A·H operations; memory V·B·(A + S), and what is asked for.

    Example:
        >>> from throughtime.cells import Elman
        >>> cell = Elman(3, 5)
        >>> tape = forward(cell, torch.zeros(7, 2, 3), torch.zeros(2, 5))
        >>> losses(cell, tape, torch.ones(7, 2, 5), enters=torch.arange(1, 8)).norms.shape
        torch.Size([7, 8, 2])
    """
    if (enters is None) != (g.dim() == 4):
        raise InputValueError(
            f"g must be (V, T, B, G), or (T, B, G) with enters (V,); got {tuple(g.shape)} "
            f"{'without' if enters is None else 'with'} enters."
        )
    return choose_back(cell, tape, g).losses(
        cell, tape, g, enters=enters, floors=floors, norms=norms, deltas=deltas, adjoints=adjoints
    )
