"""Every step gets enough of the gradient, and a longer sequence would not."""

from __future__ import annotations

import math

from ..evidence import Evidence
from ..finding import Finding
from ..look import Seen
from .coverage import Coverage, remedy

__all__ = ["falling"]


def falling(
    seen: Seen, cover: Coverage, row: int, fraction: float, *, little: float = 0.1, least: int = 4
) -> Finding | None:
    """Return a note where every step still gets enough, but longer sequences would not.

    Args:
        seen: the layer.
        cover: what its steps get.
        row: a typical row.
        fraction: what share still counts as arriving.
        little: the share of the first step from which down it is worth a note.
        least: over how many steps at least it must have fallen to that.
    """
    inside = (cover.inside[:, row] & (cover.level[:, row] > 0)).nonzero().flatten()
    if not len(inside):
        return None
    first, last = int(inside[0]), int(inside[-1])
    share, lag = float(cover.level[first, row]), last - first
    if lag < least or share >= little:
        return None
    rate = math.log(share) / lag
    reaches = round(math.log(fraction) / rate)
    return Finding(
        "horizon",
        "note",
        seen.name,
        f"The gradient of {seen.called} still arrives at every step, but falls by "
        f"{-100 * math.expm1(rate):.0f} % a step: to {100 * fraction:g} % after about {reaches} "
        "steps. Is that enough for your task? Say so by lag=.",
        (
            Evidence("share that the first step gets", share, little, f"lag {lag}", "eq. 9", True),
            Evidence("rate of the norm, nats a step", rate, None, f"{lag} steps", "eq. 9"),
        ),
        *remedy(seen, seen.layer.T),
    )
