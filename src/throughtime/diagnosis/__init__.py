"""Verdicts on a flow and findings in it, each with its evidence.

``flow`` may not import this room, so this room tells it how a printed flow is judged.
"""

from ..flow import Flow
from .diagnoses import Diagnoses
from .evidence import Diagnosis, Evidence, Verdict
from .examining import examine
from .finding import Finding
from .found import Findings
from .half_precision import HalfRange, half_range
from .verdicts import diagnose

__all__ = [
    "Diagnoses",
    "Diagnosis",
    "Evidence",
    "Finding",
    "Findings",
    "HalfRange",
    "Verdict",
    "diagnose",
    "examine",
    "half_range",
]

Flow.judge = examine
