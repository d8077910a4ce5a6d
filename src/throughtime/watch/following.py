"""A training's file of JSON lines, read while it is being written."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import FileError

__all__ = ["VERSION", "Following", "Reading", "Run", "Series"]

VERSION = 1
# The beginning of a file tells whether it is still the same one.
HEAD = 256
# No more than so many bytes are read at a time: a look must not take long.
MOST = 32 * 2**20
# What no file is: the next one of that name is another.
GONE = (-1, -1)
# So many points of a series are kept, an even number; beyond, every second one goes.
POINTS = 2000
PREFIX = "throughtime/"


@dataclass(frozen=True)
class Reading:
    """One line: what was measured at one step.

    Attributes:
        step: of the training.
        time: in seconds since 1970.
        values: by name, such as "throughtime/rnn.l0/horizon"; NaN where there is none.
        findings: each with "code", "severity", "layer" and "what".
        profile: for each layer the typical gradient by lag, relative to lag 0.
    """

    step: int
    time: float
    values: Mapping[str, float]
    findings: tuple[Mapping[str, Any], ...] = ()
    profile: Mapping[str, list[float]] = field(default_factory=dict)

    @classmethod
    def of(cls, line: bytes) -> Reading | None:
        """Return what a line says; None where it is no such line.

        Args:
            line: without its end.

        Example:
            >>> Reading.of(b'{"version": 1, "step": 3, "values": {"loss": null}}').step
            3
            >>> Reading.of(b'{"version": 1, "st') is None
            True
        """
        try:
            data = json.loads(line)
            if not isinstance(data, dict) or data.get("version") != VERSION:
                return None
            findings = tuple(
                {"severity": "note", "layer": None, "what": "", **one}
                for one in data.get("findings") or ()
                if isinstance(one.get("code"), str)
            )
            return cls(
                int(data["step"]),
                _number(data.get("time")),
                {str(name): _number(value) for name, value in (data.get("values") or {}).items()},
                findings,
                {
                    str(name): [_number(value) for value in values]
                    for name, values in (data.get("profile") or {}).items()
                },
            )
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
            return None


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


class Following:
    r"""Reads what is new in a file, which may not be there yet, be cut anywhere, or begin anew.

    Attributes:
        path: of the file.
        there: whether it was there at the last look.
        skipped: how many whole lines were no readings.
        begun: how often it began anew: it was emptied, or another file has its name.
        cut: whether it ends in the middle of a line.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp(), "run.jsonl")
        >>> following = Following(file)
        >>> following.new(), following.there
        ([], False)
        >>> _ = file.write_text('{"version": 1, "step": 1}\n{"version": 1, "ste')
        >>> [reading.step for reading in following.new()], following.cut
        ([1], True)
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Take the path; nothing is read yet."""
        self.path = Path(path)
        self.there, self.skipped, self.begun = False, 0, 0
        self._rest, self._head, self._at = b"", b"", 0
        self._who: tuple[int, int] | None = None

    @property
    def cut(self) -> bool:
        """Whether the file ends in the middle of a line."""
        return bool(self._rest)

    def new(self, last: bool = False) -> list[Reading]:
        """Return the readings that were not read yet.

        Args:
            last: whether nothing will follow, so that a line without an end is one if it is whole.

        Raises:
            FileError: the file is a folder, or may not be read.
        """
        try:
            with self.path.open("rb") as file:
                self._settle(file)
                file.seek(self._at)
                lines = list(self._lines(file.read(MOST)))
        except FileNotFoundError:
            self.there = False
            self._who = self._who and GONE
            return []
        except OSError as error:
            raise FileError(f"cannot read {self.path}: {error.strerror or error}.") from error
        self.there = True
        found = [reading for line in lines if (reading := self._read(line)) is not None]
        ending = Reading.of(self._rest) if last else None
        if ending is not None:
            self._rest = b""
            found.append(ending)
        return found

    def _settle(self, file: Any) -> None:
        """Begin anew where this is another file, or the same one emptied and written again."""
        held = os.fstat(file.fileno())
        who, head = (held.st_dev, held.st_ino), file.read(HEAD)
        same = who == self._who and held.st_size >= self._at and head.startswith(self._head)
        if self._who is not None and not same:
            self.begun += 1
            self._rest, self._at = b"", 0
        self._who, self._head = who, head

    def _lines(self, content: bytes) -> Iterator[bytes]:
        """Yield the whole lines and keep what has no end yet."""
        self._at += len(content)
        *lines, self._rest = (self._rest + content).split(b"\n")
        if len(self._rest) > MOST:  # no line of ours
            self._rest, self.skipped = b"", self.skipped + 1
        return (line for line in lines if line.strip())

    def _read(self, line: bytes) -> Reading | None:
        reading = Reading.of(line)
        self.skipped += reading is None
        return reading


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
class Seen:
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
class Run:
    """A training as far as it was read.

    Attributes:
        count: how many readings there were.
        last: the last one; None before the first.
        layers: each layer's series by quantity, such as "horizon".
        findings: by code and layer, in the order in which they first appeared.
        profile: each layer's last profile by lag.
    """

    count: int = 0
    last: Reading | None = None
    layers: dict[str, dict[str, Series]] = field(default_factory=dict)
    findings: dict[tuple[str, str | None], Seen] = field(default_factory=dict)
    profile: dict[str, list[float]] = field(default_factory=dict)

    def take(self, reading: Reading) -> None:
        """Take one more reading.

        A training that was resumed from an earlier step goes on from there: what had been measured
        from that step on is forgotten.

        Args:
            reading: the next one.
        """
        if self.last is not None and reading.step <= self.last.step:
            self._forget(reading.step)
        before = -1 if self.last is None else self.last.step
        self.count, self.last = self.count + 1, reading
        self.profile.update(reading.profile)
        for name, value in reading.values.items():
            layer, _, quantity = name.removeprefix(PREFIX).rpartition("/")
            series = self.layers.setdefault(layer, {}).setdefault(quantity, Series())
            series.add(reading.step, value)
        for one in reading.findings:
            self._find(one, reading.step, before)

    def _forget(self, step: int) -> None:
        for quantities in self.layers.values():
            for series in quantities.values():
                series.forget(step)
        self.findings = {key: f for key, f in self.findings.items() if f.since < step}

    def _find(self, one: Mapping[str, Any], step: int, before: int) -> None:
        key = (one["code"], one["layer"])
        seen = self.findings.get(key)
        since = step if seen is None or seen.last != before else seen.since
        self.findings[key] = Seen(*key, one["severity"], one["what"], since, step)

    @property
    def present(self) -> list[Seen]:
        """The findings of the last reading, errors first."""
        order = ("error", "warning", "note")
        now = [f for f in self.findings.values() if self.last and f.last == self.last.step]
        return sorted(now, key=lambda f: order.index(f.severity) if f.severity in order else 3)

    @property
    def gone(self) -> list[Seen]:
        """The findings that are there no more, those that went last first."""
        past = [f for f in self.findings.values() if self.last and f.last != self.last.step]
        return sorted(past, key=lambda f: -f.last)
