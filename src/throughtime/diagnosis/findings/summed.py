"""A loss that is a sum over time: its gradient grows with the length of the sequences."""

from __future__ import annotations

from collections.abc import Iterator

from ..evidence import Evidence
from ..finding import Finding
from ..look import Look

__all__ = ["loss_summed"]


def loss_summed(flow: Look) -> Iterator[Finding]:
    """Look for a scalar loss that adds up the steps; a note, since a small rate may go with it."""
    summed = None if flow.facts is None else flow.facts.summed
    if summed is None:
        return
    yield Finding(
        "loss-summed",
        "note",
        None,
        f"The loss is a sum over {summed.steps} steps, so its gradient grows with their number: a "
        "learning rate or a clipping threshold found for one length is wrong for another.",
        (Evidence("steps added up", float(summed.steps), 1.0, summed.operation, "eq. 5", True),),
        f"Divide it by the number of steps, loss = loss / {summed.steps}, or take the mean over "
        "all targets: reduction='mean'.",
    )
