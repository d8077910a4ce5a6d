"""The old name of `throughtime.remedies`."""

from __future__ import annotations

from ..renamed import moved

_NAMES = ("REMEDIES", "Remedy", "chrono_", "clip_gradient_", "orthogonal_")
__getattr__ = moved(__name__, "throughtime.remedies", _NAMES)
