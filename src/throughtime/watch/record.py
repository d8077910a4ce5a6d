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
# The seconds of the year 9999, beyond which a clock shows nothing.
LATEST = 253_402_214_400


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
        time: in seconds since 1970; NaN where it is not known.
        values: numbers by their names (`throughtime.watch.quantities.QUANTITIES`); NaN where there
            is none.
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
            "time": _plain(self.time),
            "values": {name: _plain(value) for name, value in self.values.items()},
            "findings": [found._asdict() for found in self.findings],
            "profile": {
                name: [_rounded(value) for value in profile]
                for name, profile in self.profile.items()
            },
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Record:
        """Return the record that `to_dict` made these data of; only its step must be there.

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
                _time(data.get("time")),
                {str(name): _number(value) for name, value in (data.get("values") or {}).items()},
                tuple(map(_found, data.get("findings") or ())),
                {
                    str(name): tuple(map(_number, profile))
                    for name, profile in (data.get("profile") or {}).items()
                },
            )
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise InputValueError(
                "a monitor's record has step, time, values, findings and profile; reading it "
                f"raised {type(error).__name__}: {error}."
            ) from error

    @classmethod
    def from_line(cls, line: bytes | str) -> Record:
        """Return the record that a line of JSON holds.

        Args:
            line: with its end or without.

        Raises:
            InputValueError: it was cut, or holds no record of this version.

        Example:
            >>> Record.from_line(b'{"version": 1, "step": 3, "values": {"loss": null}}').step
            3
        """
        try:
            data = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputValueError(f"a line of a monitor is a JSON object; {error}.") from error
        return cls.from_dict(data)

    def line(self) -> bytes:
        """Return it as one line of JSON."""
        text = json.dumps(self.to_dict(), allow_nan=False, ensure_ascii=False)
        return (text + "\n").encode()


def _found(data: Mapping[str, Any]) -> Found:
    layer = data.get("layer")
    return Found(
        str(data["code"]),
        str(data.get("severity", "note")),
        None if layer is None else str(layer),
        str(data.get("what", "")),
    )


def _time(value: Any) -> float:
    """Return a time that a clock can show; NaN where it is not known."""
    time = _number(value)
    if not math.isnan(time) and not 0 <= time < LATEST:
        raise ValueError(f"no time: {value!r}")
    return time


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _rounded(value: float) -> float | None:
    """Return a number with four digits: a profile has hundreds of them, and is looked at."""
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
