"""Verdicts on a flow, each with its evidence."""

from .evidence import Diagnosis, Evidence, Verdict
from .verdicts import diagnose

__all__ = ["Diagnosis", "Evidence", "Verdict", "diagnose"]
