"""One measured step of a training as plain data, and as a line of JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..errors import InputValueError

__all__ = ["LAGS", "VERSION", "Found", "Record"]

# Of the line's format; docs/guides/monitor.md describes it.
VERSION = 1
# So many lags of a profile are kept: a line and a history stay small however long the sequences.
LAGS = 1000


class Found(NamedTuple):
    """A finding, as it is written down.

    Attributes:
        code: as in `throughtime.Finding`.
        severity: "error", "warning" or "note".
        layer: the layer's name, or None where it is the whole model's.
        what: one sentence.
    """

    code: str
    severity: str
    layer: str | None
    what: str


@dataclass(frozen=True)
class Record:
    """What was measured at one step of a training.

    Attributes:
        step: of the training, from 0: how many came before it.
        time: in seconds since 1970.
        values: numbers by their names (`throughtime.watch.numbers.QUANTITIES`); NaN where there is
            none.
        findings: what is wrong, the most harmful first.
        profile: for each layer, the gradient by lag, relative to lag 0.

    Example:
        >>> record = Record(0, 1.5, {"throughtime/l0/horizon": 7.0})
        >>> Record.from_dict(record.to_dict()) == record
        True
    """

    step: int
    time: float
    values: Mapping[str, float]
    findings: Sequence[Found] = ()
    profile: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON: NaN and inf, which JSON has not, become None."""
        return {
            "version": VERSION,
            "step": self.step,
            "time": self.time,
            "values": {name: _plain(value) for name, value in self.values.items()},
            "findings": [found._asdict() for found in self.findings],
            "profile": {
                name: [_rounded(value) for value in profile]
                for name, profile in self.profile.items()
            },
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Record:
        """Return the record that `to_dict` made these data of.

        Args:
            data: of one step.

        Raises:
            InputValueError: they are none, or of another version.
        """
        if not isinstance(data, Mapping) or data.get("version") != VERSION:
            got = data.get("version") if isinstance(data, Mapping) else type(data).__name__
            raise InputValueError(f"a monitor's record has version {VERSION}; got {got!r}.")
        try:
            return cls(
                int(data["step"]),
                float(data["time"]),
                {str(name): _number(value) for name, value in data["values"].items()},
                tuple(_found(found) for found in data.get("findings", ())),
                {
                    str(name): tuple(_number(value) for value in profile)
                    for name, profile in data.get("profile", {}).items()
                },
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputValueError(
                "a monitor's record has step, time, values, findings and profile; reading it "
                f"raised {type(error).__name__}: {error}."
            ) from error

    def line(self) -> bytes:
        """Return it as one line of JSON."""
        text = json.dumps(self.to_dict(), allow_nan=False, ensure_ascii=False)
        return (text + "\n").encode()


def _found(data: Mapping[str, Any]) -> Found:
    return Found(data["code"], data["severity"], data["layer"], data["what"])


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _rounded(value: float) -> float | None:
    """Return a number with four digits: a profile has hundreds of them, and is looked at."""
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
