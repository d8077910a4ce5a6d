"""Which of the remedies that were tried is best, and why: by scores, or by what was measured."""

from __future__ import annotations

import math

from .ranking import harm, lead
from .table import REMEDIES
from .treatment import Row, Treatment

__all__ = ["judge"]


def judge(found: Treatment) -> None:
    """Put the remedies that help in order and name the best.

    Args:
        found: rows that are measured, and trained where that was asked for.
    """
    rows = [row for row in found.rows[1:] if row.error is None]
    trained = found.trained and any(row.gain is not None for row in rows)
    if trained:
        for row in rows:
            row.helps = row.gain is not None and row.gain.low > 0
            row.why = _score_why(row)
        most = max((row.updates for row in rows), default=0)
        helping = [row for row in rows if row.helps and row.updates == most]
        helping.sort(key=lambda row: -(row.gain.mean if row.gain else -math.inf))
    else:
        helping = [row for row in rows if row.helps and row.measured is not None]
        first = found.rows[0].measured
        cause = None if first is None else lead(first.found)
        helping.sort(key=lambda row: _place(row, cause))
    found.order = tuple(row.name for row in helping)
    found.best = found.order[0] if found.order else None


def _place(row: Row, cause: str | None) -> tuple[object, ...]:
    """Return what rows are ordered by: what is made for the leading cause, then reach."""
    assert row.measured is not None and row.remedy is not None
    harmed = harm(row.measured)
    made_for_it = cause is not None and row.remedy.against[:1] == (cause,)
    return harmed[:3], not made_for_it, harmed[3:], list(REMEDIES).index(row.name)


def _score_why(row: Row) -> str:
    if row.gain is None:
        return "not trained"
    if not row.gain.known:
        return f"score {row.gain.mean:+.3g} after {row.updates} updates, one seed: no interval"
    return (
        f"score {row.gain.mean:+.3g} ({row.gain.low:+.3g} to {row.gain.high:+.3g}) after "
        f"{row.updates} updates"
    )
