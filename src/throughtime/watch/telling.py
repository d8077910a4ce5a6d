"""What goes wrong beside a training is told where the user's own code stands, and once."""

from __future__ import annotations

import sys
import warnings

from ..errors import MonitorWarning

__all__ = ["Once", "in_a_line", "warn"]

INSIDE = ("throughtime.", "torch.")


class Once:
    """Warns of each kind of failure once, and says that the training goes on."""

    def __init__(self) -> None:
        """Begin with nothing told."""
        self._told: set[str] = set()

    def __call__(self, kind: str, what: str) -> None:
        """Warn, unless there was a warning of this kind.

        Args:
            kind: of failure.
            what: what failed.
        """
        if kind not in self._told:
            self._told.add(kind)
            warn(f"{what}. The training goes on; this is said once.", MonitorWarning)


def warn(said: str, kind: type[Warning]) -> None:
    """Warn at the innermost line that is neither of this package nor of torch.

    Args:
        said: the text.
        kind: of warning.
    """
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(INSIDE):
        frame, level = frame.f_back, level + 1
    warnings.warn(said, kind, stacklevel=level + 1)


def in_a_line(error: BaseException) -> str:
    r"""Return an error's class and the first line of what it says.

    Args:
        error: any.

    Example:
        >>> in_a_line(OSError("no space left\non a disk"))
        'OSError: no space left'
    """
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}".rstrip(": .")
