"""A hook that belongs to somebody who may be gone, and to one model alone."""

from __future__ import annotations

import weakref
from typing import Any

__all__ = ["Hook"]


class Hook:
    """Calls a method of its owner as long as there is one.

    A copy of a model, by `copy.deepcopy` or by a pickle, has a hook that does nothing.
    """

    def __init__(self, owner: Any = None, method: str = "") -> None:
        """Take the owner, which this does not keep alive, and the method's name."""
        self.owner = None if owner is None else weakref.ref(owner)
        self.method = method

    def __call__(self, *args: Any) -> None:
        """Call the owner's method; what it returns is not passed on."""
        owner = None if self.owner is None else self.owner()
        if owner is not None:
            getattr(owner, self.method)(*args)

    def __deepcopy__(self, memo: dict[int, Any]) -> Hook:
        """Return a hook that does nothing."""
        return Hook()

    def __reduce__(self) -> tuple[type[Hook], tuple[()]]:
        """Pickle as a hook that does nothing."""
        return Hook, ()
