"""The same two sweeps as `throughtime.sweep`, compiled; one table chooses.

``available()`` says what there is, ``use(...)`` chooses, ``choice(cell)`` says what runs and why not
the other.
"""

from .choose import Available, Choice, available, choice, last_choice, use
from .sweeps import backward, forward

__all__ = [
    "Available",
    "Choice",
    "available",
    "backward",
    "choice",
    "forward",
    "last_choice",
    "use",
]
