"""A layer's way forward: what it puts out, and the tape for its way back."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .. import sweep as reference
from ..cells import AbstractCell
from ..tape import Tape
from . import native, scan
from .bare import bare, taken
from .choose import in_torch
from .sweeps import decide_forward, run_forward

__all__ = ["Outputs", "joined", "outputs", "split", "states"]


class Outputs(NamedTuple):
    """What a layer puts out.

    Attributes:
        h: (T, B, H), 0 where a row takes no step.
        finals: the final state by the cell's ``parts``, each (1, B, ·) with memory of its own.
        tape: what the way back needs, bare, or None.
        shared: whether ``h`` is the tape's states, so that whoever writes into it changes them.
    """

    h: Tensor
    finals: tuple[Tensor, ...]
    tape: Tape | None
    shared: bool = False


def outputs(
    cell: AbstractCell,
    x: Tensor,
    s_0: Tensor | None,
    active: Tensor | None = None,
    reset: Tensor | None = None,
    *,
    keep: bool = True,
) -> Outputs:
    """Run the recurrence over all steps and give what a layer puts out (eq. 1).

    Args:
        cell: the recurrence.
        x: inputs (T, B, I).
        s_0: the initial state (B, S); None: zeros.
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
    number = decide_forward(cell, x, s_0, active, reset)
    T, B, _ = x.shape
    H, S = cell.hidden_size, cell.state_size
    if number is None:
        s_0 = x.new_zeros(B, S) if s_0 is None else s_0
        with torch.no_grad():
            return _outputs_in_torch(cell, x, s_0, active, reset, keep)
    # Each operation of torch's costs 20 to 40 µs where a program has just done something else: the
    # native sweep fills in s_0 and the final state, by parts.
    shared = keep and active is None and S == H
    h = None if shared else native.empty(x, T, B, H)
    finals, tape = run_forward(cell, number, x, s_0, active, reset, h, keep)
    if h is None:
        assert tape is not None
        h = states(tape.s)
    return Outputs(h, finals, tape, shared)


def _outputs_in_torch(
    cell: AbstractCell,
    x: Tensor,
    s_0: Tensor,
    active: Tensor | None,
    reset: Tensor | None,
    keep: bool,
) -> Outputs:
    H = cell.hidden_size
    way = scan if in_torch(cell) == "scan" else reference
    tape = way.forward(cell, taken(x, active), s_0, active, reset, keep=keep)
    shared = active is None and cell.state_size == H and tape.s.is_contiguous()
    h = states(tape.s) if shared else taken(tape.s[1:, :, :H], active).contiguous()
    finals = split(tape.s[-1], cell.parts())
    return Outputs(h, finals, bare(cell, tape), shared) if keep else Outputs(h, finals, None)


def split(s_T: Tensor, widths: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Give a final state (B, S) by its parts, (1, B, ·) each with memory of its own."""
    parts = s_T.unsqueeze(0).split(widths, -1)
    return tuple(part.clone(memory_format=torch.contiguous_format) for part in parts)


def joined(finals: tuple[Tensor, ...]) -> Tensor:
    """Give a final state (B, S) from its parts (1, B, ·)."""
    return (finals[0] if len(finals) == 1 else torch.cat(finals, -1)).squeeze(0)


def states(s: Tensor) -> Tensor:
    """Give the states without the first in their own memory, under another name.

    Whatever is written into it counts as a change of h, not of s.
    """
    return s.narrow(0, 1, s.shape[0] - 1).data
