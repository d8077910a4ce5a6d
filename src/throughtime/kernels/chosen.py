"""What `use` asks for, and what ran last: the state behind the choice of an engine."""

from __future__ import annotations

import threading
from typing import NamedTuple

__all__ = ["Choice", "ask_for", "is_allowed", "is_free", "last_choice", "note", "wanted"]

_wanted = "auto"
_last = threading.local()


class Choice(NamedTuple):
    """What runs, and why no preferred engine does.

    Attributes:
        name: "native"; "triton"; "torch" (its own fused modules); "fused" (single steps on a GPU,
            recorded where that can be done); or, in plain torch, "scan" (a diagonal recurrence),
            "blocks" (`cells.Function`), "graph" (the same, for few steps), or "reference" (one
            step at a time).
        reason: a sentence or two.
    """

    name: str
    reason: str


def wanted() -> str:
    """Return the name last given to `use`; "auto" at first."""
    return _wanted


def ask_for(name: str) -> str:
    """Ask for an engine by name from now on, in all threads; return the name asked for before."""
    global _wanted
    before, _wanted = _wanted, name
    return before


def is_free() -> bool:
    """Check whether the choice is left to the package."""
    return _wanted == "auto"


def is_allowed(name: str) -> bool:
    """Check whether an engine of this name may run: it is asked for, or the choice is free."""
    return _wanted in ("auto", name)


def note(choice: Choice) -> None:
    """Remember what ran in this thread."""
    _last.choice = choice


def last_choice() -> Choice | None:
    """Return what ran last in this thread, and why; None before the first sweep."""
    return getattr(_last, "choice", None)
