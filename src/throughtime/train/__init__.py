"""The trainer: one update, a character model, and the study that the demo shows."""

from .language import CELLS, CharModel, Language, Settings
from .recall import networks
from .study import Plan, Study, study
from .update import began, update

__all__ = [
    "CELLS",
    "CharModel",
    "Language",
    "Plan",
    "Settings",
    "Study",
    "began",
    "networks",
    "study",
    "update",
]
