"""The old name of `throughtime.schedules`."""

from __future__ import annotations

from .renamed import moved

_NAMES = ("FULL", "Checkpointed", "Full", "Schedule", "Truncated")
__getattr__ = moved(__name__, "throughtime.schedules", _NAMES)
