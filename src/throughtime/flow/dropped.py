"""The part of a weight gradient that a truncation leaves out."""

from __future__ import annotations

import torch
from torch import Tensor

from ..cells.base import AbstractCell
from ..schedule import Truncated
from ..sweep import backward
from ..tape import Tape

__all__ = ["left_out"]


def left_out(schedule: Truncated, cell: AbstractCell, tape: Tape, g: Tensor) -> dict[str, Tensor]:
    """Give the terms of dE/dW (eq. 5) that lie beyond the schedule's reach, summed, by weight.

    The losses of each group are followed to where the schedule stops; from there on all groups
    travel together, since eq. 9 is linear. The terms are summed as they are: nothing is the
    difference of two large numbers.

    Args:
        schedule: the window.
        cell: the recurrence.
        tape: what the forward sweep kept.
        g: all that enters the layer, (T, B, G).

    Cost:
        T·window/every steps back, and T more; memory T·B·(S + A).
    """
    beyond = g.new_zeros(1, tape.T, tape.B, cell.state_size)
    for reach, begin, end in schedule.blocks(tape.T):
        if reach == 1:
            continue
        own = g[None, reach - 1 : end].clone()
        own[:, : begin - reach] = 0
        beyond[:, reach - 2] += backward(cell, tape.steps(reach, end), own)[1]
    with torch.no_grad():
        return cell.param_grads(tape, backward(cell, tape, beyond)[0][0])
