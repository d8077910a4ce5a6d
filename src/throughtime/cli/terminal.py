"""What every command says to a terminal: results to stdout, progress and notes to stderr."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ..flow.export import plain

__all__ = ["notes", "print_json", "progress", "results"]


def results() -> Console:
    """Return the console for what was asked for."""
    return Console(highlight=False)


def notes() -> Console:
    """Return the console for what goes on meanwhile."""
    return Console(stderr=True, highlight=False)


def progress(unit: str) -> Progress:
    """Return a progress bar on stderr, which leaves no trace when it is done.

    Args:
        unit: what is counted.
    """
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
        console=notes(),
        transient=True,
    )


def print_json(value: Any) -> None:
    """Write plain values as JSON to stdout, for machines; inf and NaN as strings."""
    print(json.dumps(plain(value), ensure_ascii=False, indent=2, allow_nan=False))
