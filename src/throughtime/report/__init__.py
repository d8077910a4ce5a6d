"""Figures, the HTML page and the terminal table: they show what a flow measured."""

from .figures import KINDS, draw, figure
from .report import write_report
from .terminal_table import table

__all__ = ["KINDS", "draw", "figure", "table", "write_report"]
