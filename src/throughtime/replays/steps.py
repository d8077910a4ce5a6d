"""One step that is called again and again on tensors of the same shapes: seen, recorded, replayed.

A step of somebody's own may be any Python. So the first steps of each sweep run as ever, and are
seen: which operations, with which constants, on which tensors beside those that they are given. If
two are alike and can be recorded, they have a form; and what is recorded for a form serves every
sweep whose first steps have it.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from .. import torch_state
from . import graphs
from .cuda import Tensors, Work, WorkRecording
from .graphs import Replays, copy_all
from .seen import StepObserver

__all__ = ["Steps", "replayed"]

# A recording costs about this many steps, so it is made after as many of its form.
WORTH_RECORDING = 256
WATCHED = 3  # steps at most, to find two that are alike
MOST = 4  # recordings for a cell and a kind of work
_KNOWN: WeakKeyDictionary[nn.Module, dict[str, Replays]] = WeakKeyDictionary()
_LOCK = threading.RLock()


class Steps:
    """A function of tensors; call it with those of one step after another.

    What it returns is good until the next call.

    Attributes:
        reason: why its steps are not replayed; "" if nothing hinders it.
        replays: how many were.
    """

    def __init__(self, owner: nn.Module, what: str, work: Work, *, apart: bool = False) -> None:
        """Begin a sweep.

        Args:
            owner: the cell; its recordings are freed with it.
            what: which work of the cell's.
            work: takes and returns tensors, or None in place of some; the same for the same form.
            apart: whether something else runs between the steps, which may change the cell.
        """
        self.work, self.reason, self.replays = work, "", 0
        self._owner, self._apart = owner, apart
        with _LOCK:
            self._known = _KNOWN.setdefault(owner, {}).setdefault(what, Replays(MOST))
        self._begin()

    def _begin(self) -> None:
        self._watched, self._settled = 0, False
        self._where: Hashable = None
        self._attributes: Hashable = None
        self._form: Hashable = None
        self._recording: WorkRecording | None = None

    def __call__(self, *inputs: Tensor | None) -> Tensors:
        """Take one step."""
        device = next(t.device for t in inputs if t is not None)
        if self.reason or graphs.obstacle(device):
            return self.work(*inputs)
        where = _where(inputs, device)
        if self._settled and self._apart and _attributes(self._owner) != self._attributes:
            self._begin()
        if not self._settled:
            return self._look(inputs, where)
        if where != self._where:
            return self.work(*inputs)
        if self._recording is None:
            found = self._known.met(
                self._form, self.work, inputs, after=WORTH_RECORDING, alone=True
            )
            if isinstance(found, str):
                self.reason = found
                return self.work(*inputs)
            self._recording = found
        copy_all(self._recording.inputs, inputs)
        self._recording.replay()
        self.replays += 1
        return self._recording.outputs

    def _look(self, inputs: Tensors, where: Hashable) -> Tensors:
        """Take a step as ever, and see whether it can be recorded and is like the one before."""
        self._watched, self._where = self._watched + 1, where
        self._attributes = _attributes(self._owner)
        with StepObserver(inputs) as seen:
            out = self.work(*inputs)
        self.reason = seen.reason
        if not self.reason and _attributes(self._owner) != self._attributes:
            self.reason = "it changes an attribute of its own"
        form = (seen.form(out), self._attributes, where)
        if not self.reason and form == self._form:
            self._settled, self._recording = True, self._known.known(form)
        elif not self.reason and self._watched == WATCHED:
            self.reason = "one step does not do what the next does"
        self._form = form
        return out


def replayed(owner: nn.Module, what: str, work: Work, device: torch.device) -> Steps | None:
    """Return the work as steps that are replayed; None where nothing can be recorded.

    Args:
        owner: the cell.
        what: which work of the cell's.
        work: takes and returns tensors.
        device: where it runs.
    """
    return None if graphs.obstacle(device) else Steps(owner, what, work)


def _attributes(owner: nn.Module) -> Hashable:
    """Return what a step could read of its module beside tensors that are seen: all plain values.

    And where its tensors are, since a kernel of somebody's own takes an address unseen.
    """
    plain = tuple(
        (name, value)
        for module in owner.modules()
        for name, value in vars(module).items()
        if type(value) in (bool, int, float, str)
    )
    tensors = (*owner.parameters(), *owner.buffers())
    return plain, tuple(None if t.is_meta else t.data_ptr() for t in tensors)


def _where(inputs: Tensors, device: torch.device) -> Hashable:
    """Return what a recording is for: shapes, a thread, a stream, and how products round."""
    kinds = tuple(None if t is None else (t.shape, t.dtype, t.device) for t in inputs)
    return kinds, threading.get_ident(), torch_state.current_stream(device), torch_state.rounding()
