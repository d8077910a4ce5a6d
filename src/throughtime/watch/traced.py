"""The trace of a monitored step: begun with it, shared by the monitors of a model, let go."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from torch import nn

from ..flow import Trace, trace
from .surroundings import unwrapped

__all__ = ["Traced"]


class Traced:
    """Traces a model during one step after another; nothing is held in between."""

    def __init__(self, model: nn.Module, steps: Any) -> None:
        """Take the model.

        Args:
            model: what is trained.
            steps: as for `tt.trace`.
        """
        self._model, self._steps = model, steps
        self._trace: Trace | None = None
        self._stack: ExitStack | None = None

    def begin(self) -> None:
        """Begin a trace, or take part in the one that another monitor of the model has begun."""
        stack = ExitStack()
        self._trace = self._shared() or stack.enter_context(
            trace(unwrapped(self._model), steps=self._steps, unchanged=True)
        )
        self._stack = stack
        _OPEN.append(self)

    def end(self, *exception: Any) -> None:
        """End the trace, if it was begun here and has not ended.

        Args:
            exception: as ``__exit__`` gets it; none where there was none.
        """
        stack, self._stack = self._stack, None
        if stack is not None:
            _OPEN.remove(self)
            stack.__exit__(*(exception or (None, None, None)))

    def take(self) -> Trace | None:
        """Return the trace and hold it no longer; None where there is none."""
        taken, self._trace = self._trace, None
        return taken

    def drop(self) -> None:
        """Let a trace go, and with it the graph of its step."""
        self._trace = None
        self.end()

    def _shared(self) -> Trace | None:
        """Return the open trace of another monitor: only one trace sees a call."""
        own = unwrapped(self._model)
        alike = (o for o in _OPEN if unwrapped(o._model) is own and o._steps == self._steps)
        return next((other._trace for other in alike if other._trace is not None), None)


# What is being traced by monitors.
_OPEN: list[Traced] = []
