"""The old name of `throughtime.schedules`."""

from __future__ import annotations

from . import schedules
from .renamed import moved

__getattr__ = moved(__name__, schedules, ("FULL", "Checkpointed", "Full", "Schedule", "Truncated"))
