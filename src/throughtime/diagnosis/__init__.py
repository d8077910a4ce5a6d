"""Verdicts on a flow, each with its evidence."""

from .diagnose import diagnose
from .evidence import Diagnosis, Evidence, Verdict

__all__ = ["Diagnosis", "Evidence", "Verdict", "diagnose"]
