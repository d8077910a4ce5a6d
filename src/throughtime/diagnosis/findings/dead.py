"""Units that are 0 at every step and row, and pass no gradient there."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ...cells import Elman
from ..evidence import Evidence
from ..finding import Finding
from ..look import Look, Seen
from .coverage import as_default
from .squashed import blocks, sample

__all__ = ["dead_units"]


def dead_units(
    flow: Look,
    *,
    warn: float = 0.5,
    default: float = 0.75,
    note: float = 0.25,
    least: int = 30,
    far: float = 4.0,
) -> Iterator[Finding]:
    """Look for units of a cell without squashing that never leave 0.

    That a unit passes no gradient is seen by a step back from the units in question. A unit of an
    Elman cell that only this batch does not wake is left out: one whose argument lies less than
    ``far`` deviations below 0.

    Args:
        flow: what is looked at.
        warn: the share of the units from which on it is a warning.
        default: the same of a layer with the weights that ``torch.nn`` draws: over input that is
            not centred about half of its units may begin so.
        note: and a note.
        least: at how many steps of rows a unit must have been seen.
        far: how many standard deviations below 0 a unit's mean argument must lie.
    """
    for seen in flow.seen:
        if seen.cell is None or blocks(seen) or int(seen.steps.sum()) < least:
            continue
        dead = _dead(seen, far)
        share = float(dead.float().mean())
        if share < note:
            continue
        count, H = int(dead.sum()), len(dead)
        limit = default if as_default(seen) else warn
        units = dead.nonzero().flatten().tolist()
        at = "all units" if count == H else "units " + ", ".join(map(str, units[:6]))
        why, remedy, fix = _why(seen, dead)
        yield Finding(
            "dead-units",
            "error" if count == H else ("warning" if share >= limit else "note"),
            seen.name,
            f"{count} of {H} units of {seen.called} are 0 at every step and row of this batch and "
            f"pass no gradient: {why}.",
            (Evidence("share of the units that are dead", share, limit, at, "eq. 4", True),),
            remedy,
            fix,
        )


def _why(seen: Seen, dead: Tensor, *, large: float = 3.0) -> tuple[str, str, str]:
    """Return what holds units at 0, what to do, and the name of a remedy."""
    cell = seen.cell
    if type(cell) is Elman and large <= seen.size < float("inf"):
        driven = (sample(seen, seen.layer.tape.x) @ cell.weight_ih.detach().T).mean(0)[dead]
        bias = sum(w for n, w in cell.weights().items() if n.startswith("bias"))
        if float((driven < -torch.as_tensor(bias).detach().abs().amax()).float().mean()) > 0.5:
            return (
                "their input, far from 0 as it is, holds them there",
                "Standardise the input, each feature to mean 0 and scale 1 with statistics from "
                "the training data.",
                "standardise",
            )
    return (
        "nothing that they get can wake them",
        "Start ReLU units from biases of 0 or a little above and an orthogonal or identity W_h, "
        "lower the learning rate, or use tanh or a gated cell.",
        "gated-cell",
    )


def _dead(seen: Seen, far: float) -> Tensor:
    """Return which units of h are dead, (H,) bool."""
    cell, tape = seen.cell, seen.layer.tape
    assert cell is not None
    h = tape.s[1:, :, : cell.hidden_size]
    zero = (torch.where(seen.steps[..., None], h, 0) == 0).flatten(0, 1).all(0)
    if type(cell) is Elman and bool(zero.any()):
        zero &= _far_below(seen, cell, far)
    if not bool(zero.any()):
        return zero
    t = max(1, tape.T // 2)
    delta = torch.nn.functional.pad(zero.to(h), (0, cell.state_size - cell.hidden_size))
    with torch.no_grad():
        adjoint = cell.vjp(tape.at(t), delta.expand(1, tape.B, -1).contiguous())[1]
    passes = bool((adjoint[..., : cell.preact_size] != 0).any())
    return torch.zeros_like(zero) if passes else zero


def _far_below(seen: Seen, cell: Elman, far: float) -> Tensor:
    """Return of which units the mean of a_t lies so many deviations below 0, (H,) bool.

    A deviation counts as 0.1 at least: a constant input alone says little of what others do.
    """
    x, s = sample(seen, seen.layer.tape.x), sample(seen, seen.layer.tape.s[:-1])
    with torch.no_grad():
        a = cell.drive(x[None])[0] + s @ cell.weight_hh.T
    return a.mean(0) + far * a.std(0).clamp(min=0.1) < 0
