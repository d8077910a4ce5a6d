"""Verdicts on a flow and findings in it, each with its evidence."""

from .evidence import Diagnosis, Evidence, Verdict
from .examining import examine
from .finding import Finding
from .verdicts import diagnose

__all__ = ["Diagnosis", "Evidence", "Finding", "Verdict", "diagnose", "examine"]
