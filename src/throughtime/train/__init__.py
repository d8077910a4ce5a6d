"""The trainer: one update, a character model, and what to try next with it."""

from .advice import Advice, advise
from .language import Language
from .model import CELLS, CharModel, Settings
from .updating import began, update

__all__ = [
    "CELLS",
    "Advice",
    "CharModel",
    "Language",
    "Settings",
    "advise",
    "began",
    "update",
]
