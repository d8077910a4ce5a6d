"""Units that are 0 at every step and row, and pass no gradient there."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..evidence import Evidence
from ..finding import Finding
from ..look import Look, Seen
from .blocks import blocks

__all__ = ["dead_units"]


def dead_units(
    flow: Look, *, warn: float = 0.5, note: float = 0.05, least: int = 30
) -> Iterator[Finding]:
    """Look for units of a cell without squashing that never leave 0.

    That a unit passes no gradient is seen by a step back from the units in question.

    Args:
        flow: what is looked at.
        warn: the share of the units from which on it is a warning.
        note: and a note.
        least: at how many steps of rows a unit must have been seen.
    """
    for seen in flow.seen:
        if seen.cell is None or blocks(seen) or int(seen.steps.sum()) < least:
            continue
        dead = _dead(seen)
        share = float(dead.float().mean())
        if share < note:
            continue
        count, H = int(dead.sum()), len(dead)
        units = dead.nonzero().flatten().tolist()
        at = "all units" if count == H else "units " + ", ".join(map(str, units[:6]))
        yield Finding(
            "dead-units",
            "error" if count == H else ("warning" if share >= warn else "note"),
            seen.name,
            f"{count} of {H} units of {seen.called} are 0 at every step and row of this batch and "
            "pass no gradient: nothing that they get can wake them.",
            (Evidence("share of the units that are dead", share, warn, at, "eq. 4", True),),
            "Start ReLU units from biases of 0 or a little above and an orthogonal or identity "
            "W_h, lower the learning rate, or use tanh or a gated cell.",
            "gated-cell",
        )


def _dead(seen: Seen) -> Tensor:
    """Return which units of h are dead, (H,) bool."""
    cell, tape = seen.cell, seen.layer.tape
    assert cell is not None
    h = tape.s[1:, :, : cell.hidden_size]
    zero = (torch.where(seen.steps[..., None], h, 0) == 0).flatten(0, 1).all(0)
    if not bool(zero.any()):
        return zero
    t = max(1, tape.T // 2)
    delta = torch.nn.functional.pad(zero.to(h), (0, cell.state_size - cell.hidden_size))
    with torch.no_grad():
        adjoint = cell.vjp(tape.at(t), delta.expand(1, tape.B, -1).contiguous())[1]
    passes = bool((adjoint[..., : cell.preact_size] != 0).any())
    return torch.zeros_like(zero) if passes else zero
