"""A training as far as its records were read, in bounded memory: series, and findings over time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from .quantities import PREFIX
from .record import Found, Record

__all__ = ["FindingSpan", "Series", "TrainingRun"]

# So many points of a series are kept, an even number; beyond, every second one goes.
POINTS = 2000


class Series:
    """The course of one number over training, thinned where it gets long."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.steps: list[int] = []
        self.values: list[float] = []
        self._every, self._count, self._loose = 1, 0, False

    def add(self, step: int, value: float) -> None:
        """Take one more point; the last one is always there.

        Args:
            step: of the training.
            value: NaN where there is none.
        """
        if self._loose:  # it was there only as the last one
            del self.steps[-1], self.values[-1]
        self.steps.append(step)
        self.values.append(value)
        self._loose = self._count % self._every > 0
        self._count += 1
        if len(self.steps) > POINTS and not self._loose:
            del self.steps[1::2], self.values[1::2]
            self._every *= 2

    def forget(self, step: int) -> None:
        """Drop the points from a step on.

        Args:
            step: of the training.
        """
        while self.steps and self.steps[-1] >= step:
            del self.steps[-1], self.values[-1]
        self._count, self._loose = max(0, (len(self.steps) - 1) * self._every + 1), False

    @property
    def last(self) -> float:
        """The last value; NaN where there is none."""
        return self.values[-1] if self.values else math.nan


@dataclass
class FindingSpan:
    """A finding over training.

    Attributes:
        code: what was found.
        layer: where; None: in the whole model.
        severity: as it was last.
        what: as it was last.
        since: the step at which it appeared, the last time that it did.
        last: the last step at which it was there.
    """

    code: str
    layer: str | None
    severity: str
    what: str
    since: int
    last: int


@dataclass
class TrainingRun:
    """A training as far as it was read.

    Attributes:
        count: how many records there were.
        last: the last one; None before the first.
        layers: each layer's series by quantity, such as "horizon".
        findings: by code and layer, in the order in which they first appeared.
        profile: each layer's last profile by lag.
    """

    count: int = 0
    last: Record | None = None
    layers: dict[str, dict[str, Series]] = field(default_factory=dict)
    findings: dict[tuple[str, str | None], FindingSpan] = field(default_factory=dict)
    profile: dict[str, Sequence[float]] = field(default_factory=dict)

    def take(self, record: Record) -> None:
        """Take one more record.

        A training that was resumed from an earlier step goes on from there: what had been measured
        from that step on is forgotten.

        Args:
            record: the next one.
        """
        before = -1 if self.last is None else self.last.step
        if record.step <= before:
            before = self._forget(record.step)
        self.count, self.last = self.count + 1, record
        self.profile.update(record.profile)
        for name, value in record.values.items():
            layer, _, quantity = name.removeprefix(f"{PREFIX}/").rpartition("/")
            series = self.layers.setdefault(layer, {}).setdefault(quantity, Series())
            series.add(record.step, value)
        for one in record.findings:
            self._find(one, record.step, before)

    def _forget(self, step: int) -> int:
        """Drop what is known from a step on, and return the last step before it that is left."""
        every = [series for quantities in self.layers.values() for series in quantities.values()]
        for series in every:
            series.forget(step)
        before = max((series.steps[-1] for series in every if series.steps), default=-1)
        self.findings = {key: f for key, f in self.findings.items() if f.since < step}
        for finding in self.findings.values():
            finding.last = min(finding.last, before)
        return before

    def _find(self, one: Found, step: int, before: int) -> None:
        key = (one.code, one.layer)
        seen = self.findings.get(key)
        since = step if seen is None or seen.last != before else seen.since
        self.findings[key] = FindingSpan(*key, one.severity, one.what, since, step)

    @property
    def present(self) -> list[FindingSpan]:
        """The findings of the last record, errors first."""
        order = ("error", "warning", "note")
        now = [f for f in self.findings.values() if self.last and f.last == self.last.step]
        return sorted(now, key=lambda f: order.index(f.severity) if f.severity in order else 3)

    @property
    def gone(self) -> list[FindingSpan]:
        """The findings that are there no more, those that went last first."""
        past = [f for f in self.findings.values() if self.last and f.last != self.last.step]
        return sorted(past, key=lambda f: -f.last)
