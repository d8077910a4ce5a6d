"""One step that is called again and again on tensors of the same shapes: seen, recorded, replayed.

A step of somebody's own may be any Python. So the first call of each sweep runs as ever, and is
seen: which operations, with which constants, on which tensors beside those it is given. If it can
be recorded, the second call is; and a recording serves every sweep whose first step has its form.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from .graphs import REPLAYS, Recording, Tensors, Work, copy_all
from .seen import Seen

__all__ = ["Steps", "replayed"]

# A recording costs some steps, so fewer are not worth one.
WORTH_RECORDING = 8
MOST = 4  # recordings for a cell and a kind of work
_KNOWN: WeakKeyDictionary[Any, dict[str, OrderedDict[Hashable, Recording]]] = WeakKeyDictionary()
_LOCK = threading.RLock()


class Steps:
    """A function of tensors; call it with those of one step after another.

    What it returns is good until the next call.

    Attributes:
        reason: why its steps are not replayed; "" if they are.
        replays: how many were.
    """

    def __init__(
        self, owner: Any, what: str, work: Work, record: Callable[..., Recording] | None = None
    ) -> None:
        """Begin a sweep.

        Args:
            owner: the cell; its recordings are freed with it.
            what: which work of the cell's.
            work: takes and returns tensors, or None in place of some; the same for the same form.
            record: records work over inputs; None: as `REPLAYS` does.
        """
        self.work, self.reason, self.replays = work, "", 0
        self._record, self._where = record or REPLAYS.record, (owner, what)
        self._seen: Seen | None = None
        self._kinds: tuple[Hashable, ...] = ()
        self._form: Hashable = None
        self._recording: Recording | None = None

    def __call__(self, *inputs: Tensor | None) -> Tensors:
        """Take one step."""
        if self.reason:
            return self.work(*inputs)
        if self._seen is None:
            return self._first(inputs)
        if self._kinds != _kinds(inputs):
            return self.work(*inputs)
        with _LOCK:
            if self._recording is None:
                self._recording = self._recorded(inputs)
                if self.reason:
                    return self.work(*inputs)
            copy_all(self._recording.inputs, inputs)
            self._recording.replay()
        self.replays += 1
        return self._recording.outputs

    def _first(self, inputs: Tensors) -> Tensors:
        """Take the first step as ever, and see whether it can be recorded or is known."""
        self._seen, self._kinds = Seen(inputs), _kinds(inputs)
        with self._seen:
            out = self.work(*inputs)
        self._seen.out(out)
        self.reason = self._seen.reason
        owner, what = self._where
        if not self.reason:
            # A recording is for one thread, one stream and one way in which products round.
            stream = _stream(self._seen.device)
            rounding = torch.backends.cuda.matmul.allow_tf32
            self._form = (self._seen.form, threading.get_ident(), stream, rounding)
            with _LOCK:
                self._recording = _known(owner, what).get(self._form)
        return out

    def _recorded(self, inputs: Tensors) -> Recording | None:
        own = tuple(None if t is None else t.clone() for t in inputs)
        try:
            made = self._record(self.work, own)
        except Exception as error:  # what cannot be captured runs as ever, and it is said
            self.reason = f"it could not be recorded ({type(error).__name__}: {error})"
            return None
        known = _known(*self._where)
        known[self._form] = made
        while len(known) > MOST:
            known.popitem(last=False)
        return made


def replayed(owner: Any, what: str, work: Work, T: int) -> Steps | None:
    """Return the work as steps that are replayed; None where so few are not worth it.

    Args:
        owner: the cell.
        what: which work of the cell's.
        work: takes and returns tensors.
        T: how many steps there will be.
    """
    return Steps(owner, what, work) if T >= WORTH_RECORDING else None


def _known(owner: Any, what: str) -> OrderedDict[Hashable, Recording]:
    return _KNOWN.setdefault(owner, {}).setdefault(what, OrderedDict())


def _kinds(inputs: Tensors) -> tuple[Hashable, ...]:
    return tuple(None if t is None else (t.shape, t.dtype, t.device) for t in inputs)


def _stream(device: torch.device) -> int:
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
