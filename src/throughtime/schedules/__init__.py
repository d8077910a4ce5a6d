"""Which steps are kept, recomputed or cut on the backward pass: one file per schedule."""

from .base import AbstractSchedule, Kept, last_steps
from .checkpointed import Checkpointed
from .full import FULL, Full
from .truncated import Truncated

# What a layer's through= takes, for annotations.
Schedule = AbstractSchedule

__all__ = [
    "FULL",
    "AbstractSchedule",
    "Checkpointed",
    "Full",
    "Kept",
    "Schedule",
    "Truncated",
    "last_steps",
]
