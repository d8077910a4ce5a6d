"""Which of what was tried is best: by causes and reach, and by scores where models trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from .places import Place
from .reach import FRACTION, Measured

__all__ = ["Interval", "further", "harm", "helps", "interval", "lead"]

# A profile that grows by more than this explodes.
GROWS = 100.0
# So much more has to reach the best units to be worth a word where 1 % is not reached.
MORE = 10.0
# Findings that say no more than the reach itself does.
REACH = {"vanishes", "explodes", "horizon", "underflow"}
# Findings of a layer that is not read, which say nothing against the reach of another one.
ASIDE = {"no-gradient", "parameter-unreached"}
# Two-sided 95 % points of Student's t with 1, 2, … degrees of freedom.
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179,
           2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086)  # fmt: skip


class Interval(NamedTuple):
    """A mean and its 95 % interval; without width from one value alone, where none is known."""

    mean: float
    low: float
    high: float
    known: bool


def interval(values: Sequence[float]) -> Interval:
    """Return the mean of values and its 95 % interval by Student's t.

    Args:
        values: at least one.

    Example:
        >>> found = interval([1.0, 2.0, 3.0])
        >>> found.mean, round(found.high - found.mean, 3)
        (2.0, 2.484)
    """
    n = len(values)
    mean = sum(values) / n
    if n < 2 or not math.isfinite(mean):
        return Interval(mean, mean, mean, False)
    spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1) / n)
    t = STUDENT[n - 2] if n - 2 < len(STUDENT) else 1.96 + 2.4 / n
    return Interval(mean, mean - t * spread, mean + t * spread, True)


def harm(measured: Measured, places: Sequence[Place] = ()) -> tuple[float, ...]:
    """Return how much is wrong, worst first; smaller is better.

    In order: inf or NaN; findings other than those of reach, whose cause stands before it; a
    gradient that grows over 100 times; one that does not reach 1 % in the best units; and then how
    far below 1 % it is, in tens.

    Args:
        measured: a model.
        places: where it was changed.
    """
    reach = measured.at(places)
    causes = [code for code in measured.found if code not in REACH | ASIDE]
    short = math.log10(FRACTION / max(reach.best, 1e-300)) if reach.best == reach.best else 300.0
    return (
        float(measured.nonfinite is not None),
        float(len(causes)),
        float(reach.peak > GROWS),
        float(short > 0),
        max(0.0, short),
    )


def helps(before: tuple[float, ...], after: tuple[float, ...]) -> bool:
    """Check whether less is wrong after a remedy than before; reach counts once it is 1 %.

    While there is inf or NaN, or a cause that lies before it, no reach counts.

    Args:
        before: what `harm` returned.
        after: likewise.
    """
    worse = after[0] > 0 or after[1] >= before[1] > 0
    return after[:4] < before[:4] and (not worse or after[0] < before[0])


def lead(found: Sequence[str]) -> str | None:
    """Return the first cause among the codes found; None where there is none but the reach.

    Args:
        found: as `Measured.found`.
    """
    return next((code for code in found if code not in REACH | ASIDE), None)


def further(before: tuple[float, ...], after: tuple[float, ...]) -> bool:
    """Check whether ten times as much comes through, though `helps` does not count it.

    Args:
        before: what `harm` returned.
        after: likewise.
    """
    return before[:3] == after[:3] and before[4] - after[4] >= math.log10(MORE)
