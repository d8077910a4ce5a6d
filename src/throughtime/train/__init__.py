"""The trainer: one update, and a character model."""

from .language import CELLS, CharModel, Language, Settings
from .updating import began, update

__all__ = [
    "CELLS",
    "CharModel",
    "Language",
    "Settings",
    "began",
    "update",
]
