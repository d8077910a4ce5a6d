"""What a monitor has measured so far: kept in bounded memory, and read back from JSON lines."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from .following import Following
from .quantities import PREFIX, split_name
from .record import Record

__all__ = ["MOST", "History", "read"]

# With so many records every second one of the older half is dropped.
MOST = 1000


class History:
    """The records of one training, in the order of their steps.

    Of a long training the older ones become sparser, so that memory does not grow. A record at an
    earlier step than the last begins that stretch anew, as a training does that was killed and
    goes on from its last checkpoint.

    Attributes:
        skipped: how many lines of a file could not be read.

    Example:
        >>> history = History()
        >>> for step in (0, 100, 200, 100):
        ...     history.add(Record(step, 0.0, {"throughtime/l0/horizon": float(step)}))
        >>> history.series("l0", "horizon")
        ([0, 100], [0.0, 100.0])
    """

    def __init__(self, records: Iterable[Record] = (), most: int = MOST) -> None:
        """Begin with some records.

        Args:
            records: in order.
            most: how many are kept.
        """
        self.skipped = 0
        self._most = most
        self._records: list[Record] = []
        for record in records:
            self.add(record)

    def __len__(self) -> int:
        """Count the records that are kept."""
        return len(self._records)

    def __iter__(self) -> Iterator[Record]:
        """Go through the records."""
        return iter(self._records)

    def __getitem__(self, index: int) -> Record:
        """Return one record; −1 is the last."""
        return self._records[index]

    def add(self, record: Record) -> None:
        """Take one more record.

        Args:
            record: what was measured at a step.
        """
        while self._records and self._records[-1].step >= record.step:
            self._records.pop()
        packed = {name: array("f", profile) for name, profile in record.profile.items()}
        self._records.append(replace(record, profile=packed))
        if len(self._records) > self._most:
            half = self._most // 2
            self._records[:half] = self._records[:half:2]

    @property
    def layers(self) -> list[str]:
        """The names of the layers that were measured, in the order in which they appeared."""
        found: dict[str, None] = {}
        for record in self._records:
            for name in record.values:
                parts = split_name(name)
                if parts is not None:
                    found[parts[0]] = None
        return list(found)

    def series(self, layer: str, quantity: str) -> tuple[list[int], list[float]]:
        """Return the steps at which a quantity was measured, and its values.

        Args:
            layer: the layer's name.
            quantity: one of `throughtime.watch.quantities.QUANTITIES`.
        """
        name = f"{PREFIX}/{layer}/{quantity}"
        there = [(r.step, r.values[name]) for r in self._records if name in r.values]
        return [step for step, _ in there], [value for _, value in there]

    def state_dict(self) -> list[dict[str, Any]]:
        """Return plain data for a checkpoint."""
        return [record.to_dict() for record in self._records]

    def load_state_dict(self, state: Iterable[dict[str, Any]]) -> None:
        """Take the place of what was measured by what a checkpoint holds.

        Args:
            state: what `state_dict` returned.
        """
        self._records = []
        for data in state:
            self.add(Record.from_dict(data))


def read(path: str | os.PathLike[str]) -> History:
    """Return the history that a monitor wrote, also while it is still writing.

    A line that was cut by a killed run, or is no record, is skipped and counted.

    Args:
        path: of the JSON lines.

    Raises:
        FileError: there is no such file, or it cannot be read.
    """
    following, history = Following(path), History()
    for record in following.rest():
        history.add(record)
    history.skipped = following.skipped + following.cut
    return history
