"""Problems whose time lag is known, with the loss that an answer without memory reaches."""

from .adding import Adding
from .base import Batch, Task
from .copying import Copying
from .mention import Mention
from .temporal_order import TemporalOrder
from .text import CharText, read_text

__all__ = [
    "Adding",
    "Batch",
    "CharText",
    "Copying",
    "Mention",
    "Task",
    "TemporalOrder",
    "read_text",
]
