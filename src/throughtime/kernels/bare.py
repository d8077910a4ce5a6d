"""What a layer's tape need not hold, because its states tell it."""

from __future__ import annotations

from torch import Tensor

from ..cells import GRU, LSTM, AbstractCell, Elman, LayerNormLSTM
from ..tape import Tape

__all__ = ["bare", "complete", "taken"]

# How many of the tensors that a cell saves are no states of the tape.
OWN: dict[type[AbstractCell], int] = {Elman: 0, LSTM: 1, GRU: 2, LayerNormLSTM: 5}


def bare(cell: AbstractCell, tape: Tape) -> Tape:
    """Give the tape without what `complete` can put back."""
    own = OWN.get(type(cell), len(tape.saved))
    return Tape(tape.x, tape.s, tape.saved[:own], tape.active, tape.reset)


def complete(cell: AbstractCell, tape: Tape) -> Tape:
    """Give the tape as `sweep.forward` would have kept it, from one that may be bare."""
    x = taken(tape.x, tape.active)
    if len(tape.saved) != OWN.get(type(cell), -1):
        states = ()
    elif type(cell) is Elman:
        states = (tape.s[1:],)
    elif type(cell) is LSTM:
        states = (tape.s_prev(), tape.s[1:])
    else:
        states = (tape.s_prev(),)
    return Tape(x, tape.s, (*tape.saved, *states), tape.active, tape.reset)


def taken(rows: Tensor, active: Tensor | None) -> Tensor:
    """Give rows (T, B, ·) with 0 where no step is taken: a NaN there must not count, as 0·NaN."""
    return rows if active is None else rows.masked_fill(~active[..., None], 0)
