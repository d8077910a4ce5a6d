"""Old import paths: they go on working, and say where things are now."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any

__all__ = ["moved"]


def moved(old: str, new: str, names: tuple[str, ...]) -> Callable[[str], Any]:
    """Return a module's ``__getattr__`` that takes names from where they are now, and warns.

    Args:
        old: the old module's name.
        new: the name of the module that has them now.
        names: what the old module had.
    """

    def look_up(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {old!r} has no attribute {name!r}")
        warnings.warn(
            f"{old} is called {new} now; import {name} from there.",
            DeprecationWarning,
            stacklevel=2,
        )
        return getattr(import_module(new), name)

    return look_up
