"""What calls somebody when a finding appears or goes away."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from .record import Found

__all__ = ["Alarm", "Alarms"]

# A note is only worth knowing.
LOUD = ("error", "warning")


class Alarm(NamedTuple):
    """A finding of severity error or warning that appeared or went away.

    Attributes:
        step: at which step of the training.
        code: as in `throughtime.Finding`.
        layer: the layer's name, or None where it is the whole model's.
        severity: "error" or "warning".
        what: one sentence.
        gone: whether it went away.

    Example:
        >>> print(Alarm(300, "vanishes", "rnn.l0", "warning", "In rnn.l0 …", False))
        step 300: vanishes in rnn.l0 appeared (warning): In rnn.l0 …
        >>> print(Alarm(400, "vanishes", "rnn.l0", "warning", "In rnn.l0 …", True))
        step 400: vanishes in rnn.l0 went away
    """

    step: int
    code: str
    layer: str | None
    severity: str
    what: str
    gone: bool

    def __str__(self) -> str:
        """Return one line."""
        where = f" in {self.layer}" if self.layer else ""
        if self.gone:
            return f"step {self.step}: {self.code}{where} went away"
        return f"step {self.step}: {self.code}{where} appeared ({self.severity}): {self.what}"


class Alarms:
    """The findings that were there at the last measured step, and whom to call."""

    def __init__(self, call: Callable[[Alarm], object] | None) -> None:
        """Begin with none.

        Args:
            call: called with each `Alarm`.
        """
        self._call = call
        self._there: dict[tuple[str, str | None], Found] = {}

    def hear(self, step: int, findings: Iterable[Found]) -> list[Alarm]:
        """Return what changed at a step.

        Args:
            step: of the training.
            findings: all that were found at it.
        """
        now = {(f.code, f.layer): f for f in findings if f.severity in LOUD}
        before, self._there = self._there, now
        came = [self._alarm(step, f, False) for key, f in now.items() if key not in before]
        went = [self._alarm(step, f, True) for key, f in before.items() if key not in now]
        return came + went

    def ring(self, alarms: Iterable[Alarm]) -> None:
        """Call whoever is to be called.

        Args:
            alarms: what changed.
        """
        for alarm in alarms:
            if self._call is not None:
                self._call(alarm)

    def state_dict(self) -> list[list[str | None]]:
        """Return plain data for a checkpoint."""
        return [list(found) for found in self._there.values()]

    def load_state_dict(self, state: Iterable[Sequence[Any]]) -> None:
        """Take up what a checkpoint holds, so that what was there then is no news.

        Args:
            state: what `state_dict` returned.
        """
        found = [Found(*one) for one in state]
        self._there = {(f.code, f.layer): f for f in found}

    @staticmethod
    def _alarm(step: int, found: Found, gone: bool) -> Alarm:
        return Alarm(step, found.code, found.layer, found.severity, found.what, gone)
