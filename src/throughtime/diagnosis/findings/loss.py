"""A loss that is inf or NaN."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ..evidence import Evidence
from ..finding import Finding
from ..look import Look
from .place_names import many

__all__ = ["loss_broken"]


def loss_broken(flow: Look) -> Iterator[Finding]:
    """Look for losses that are not finite, and the rows by which they are so.

    An error where all states are finite; else a note, since it follows from them.
    """
    if flow.facts is None or flow.finite_losses:
        return
    losses = flow.facts.losses.reshape(-1)
    bad = (~losses.isfinite()).nonzero().flatten()
    root = flow.finite_forward
    first, value = int(bad[0]), float(losses[bad[0]])
    kind = "NaN" if math.isnan(value) else ("inf" if value > 0 else "−inf")
    which = "The loss is" if losses.numel() == 1 else f"Loss {first} (counted from 0) is"
    if len(bad) > 1:
        which = f"{many(len(bad), losses.numel(), 'losses')} are not finite; the first, {first}, is"
        which = which[0].upper() + which[1:]
    rows = _rows(flow)
    of_row = f" It comes from row {', '.join(map(str, rows))} of the batch." if rows else ""
    states = ", while every state is finite." if root else "."
    yield Finding(
        "loss-nonfinite",
        "error" if root else "note",
        None,
        f"{which} {kind}{states}{of_row}",
        (
            Evidence(
                "first loss that is not finite", value, math.inf, f"loss {first}", "eq. 10", True
            ),
        ),
        "Look at the targets and at what lies between the states and the loss: NaN among the "
        "targets, the logarithm of 0, a division by a count of 0, labels longer than the input "
        "(CTC: zero_infinity=True, and leave such rows out)."
        if root
        else "Mend what it follows from; the loss itself may be sound.",
    )


def _rows(flow: Look, few: float = 0.5) -> list[int]:
    """Return the rows that a bad loss sends inf or NaN into, where they are few enough to tell.

    Args:
        flow: what is looked at.
        few: the largest share of the rows that tells anything.
    """
    for seen in reversed(flow.seen):
        entering = seen.layer.entering_norms
        rows = (~entering.isfinite()).any(0).nonzero().flatten().tolist()
        if rows:
            return rows[:5] if len(rows) <= few * entering.shape[1] else []
    return []
