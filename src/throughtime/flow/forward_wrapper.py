"""What stands in for a module's forward while traces watch it."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from types import MethodType
from typing import Any, NamedTuple

import torch
from torch import nn

from ..node.recording import Recording
from .severed import note_blind

__all__ = ["Entry", "Watch", "Watcher", "plain_forward"]

# Traces may begin and end in several threads at once.
_LOCK = threading.RLock()


class Watcher(NamedTuple):
    """One trace's interest in a module."""

    recording: Recording
    path: str
    entry: Entry
    thread: int


# What runs a module for a trace: the watch over it, the trace's interest, the call's arguments.
Entry = Callable[["Watch", Watcher, tuple[Any, ...], dict[str, Any]], Any]


class Watch:
    """A module's forward while at least one trace watches it; one for all of them.

    Traces may end in any order: each takes only itself away, and the last one leaves the module as
    the first one found it. Of several, the one that began last in the calling thread sees a call;
    where none began in it, the one that began last.

    A copy of the module, by `copy.deepcopy` or by a pickle, is not watched.
    """

    def __init__(self, module: nn.Module) -> None:
        """Keep what the module has for a forward of its own, if anything."""
        self.module = module
        self.before: Callable[..., Any] | None = module.__dict__.get("forward")
        self.watchers: list[Watcher] = []

    @classmethod
    def over(cls, module: nn.Module) -> Watch:
        """Return the watch that is on the module, or a new one."""
        own = module.__dict__.get("forward")
        return own if isinstance(own, Watch) and own.module is module else cls(module)

    def begin(self, recording: Recording, path: str, entry: Entry) -> None:
        """Let one more trace watch."""
        with _LOCK:
            self.watchers.append(Watcher(recording, path, entry, threading.get_ident()))
            self.module.__dict__["forward"] = self

    def end(self, recording: Recording) -> None:
        """Let a trace go, and after the last one leave the module as it was."""
        with _LOCK:
            self.watchers = [w for w in self.watchers if w.recording is not recording]
            if self.watchers or self.module.__dict__.get("forward") is not self:
                return
            if self.before is None:
                del self.module.__dict__["forward"]
            else:
                self.module.__dict__["forward"] = self.before

    def __call__(self, *args: Any, **named: Any) -> Any:
        """Run the module for the trace that watches; a watch that is over runs it as it is."""
        watchers, here = self.watchers, threading.get_ident()
        if not watchers:
            return self.plain(*args, **named)
        watcher = next((w for w in reversed(watchers) if w.thread == here), watchers[-1])
        out = watcher.entry(self, watcher, args, named)
        if not torch.is_grad_enabled():
            note_blind(watcher.recording, watcher.path, self.module, out)
        return out

    @property
    def plain(self) -> Callable[..., Any]:
        """The module's forward as it was."""
        return plain_forward(self.module) if self.before is None else self.before

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., Any]:
        """Return the plain forward of the module's copy."""
        if self.before is not None:
            return copy.deepcopy(self.before, memo)
        return plain_forward(memo.get(id(self.module), self.module))

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Pickle as the plain forward."""
        if self.before is not None:
            return _as_it_is, (self.before,)
        return plain_forward, (self.module,)


def plain_forward(module: nn.Module) -> Callable[..., Any]:
    """Return the forward that a module's class gives it."""
    return MethodType(type(module).forward, module)


def _as_it_is(forward: Callable[..., Any]) -> Callable[..., Any]:
    return forward
