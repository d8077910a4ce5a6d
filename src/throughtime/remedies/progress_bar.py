"""A bar while remedies are tried, on a terminal only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Advance", "progress"]

# Is called with a name at each beginning, and with how many steps there are to come.
Advance = Callable[[str, int], None]


@contextmanager
def progress() -> Iterator[Advance]:
    """Show a bar on a terminal; yield what is called at each beginning, with steps to come."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda name, more: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as bar:
        task = bar.add_task("", total=0, completed=-1)
        total = 0

        def advance(name: str, more: int) -> None:
            nonlocal total
            total += more
            bar.update(task, description=name, total=total, advance=1)

        yield advance
