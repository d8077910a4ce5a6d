"""Many launches of the same shapes, recorded once in a CUDA graph and replayed.

A launch from Python costs more than a small step computes. So the second sweep of a shape is
recorded, and later ones copy their inputs to where the record reads them.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from .. import torch_state
from .cuda import CUDA, BusyError, Tensors, Work, WorkRecorder, WorkRecording, copy_all

__all__ = [
    "MOST_BYTES",
    "RECORDER",
    "REPLAYS",
    "Done",
    "Replays",
    "obstacle",
    "unrecorded",
]

# A recording keeps what it reads and writes; work with more than this is not recorded.
MOST_BYTES = 1 << 28
# Who records: torch's CUDA graphs, and in the tests what does the same on a CPU.
RECORDER: list[WorkRecorder] = [CUDA]


class Done(NamedTuple):
    """What work returned.

    Attributes:
        tensors: its results, in memory of their own.
        reason: why it could not be recorded; "" if it was, or was not yet tried.
    """

    tensors: Tensors
    reason: str = ""


class Replays:
    """The recordings of what was met last.

    Attributes:
        most: how many are kept, those that are not recorded yet among them.
        most_bytes: how much memory they keep together, as far as it is read or returned.
        lock: held while one is copied to, replayed and read.
    """

    def __init__(self, most: int = 8, most_bytes: int = 4 * MOST_BYTES) -> None:
        """Begin without any.

        Args:
            most: how many are kept.
            most_bytes: how much memory they keep together.
        """
        self.most, self.most_bytes, self.lock = most, most_bytes, threading.RLock()
        # How often each was met; then its recording, or why there is none.
        self._known: OrderedDict[Hashable, int | WorkRecording | str] = OrderedDict()

    def run(
        self, key: Hashable, work: Work, inputs: Sequence[Tensor | None], more: int = 0
    ) -> Done:
        """Do the work: the first time of a shape as it is, from the second time on as recorded.

        Args:
            key: what the work depends on besides the inputs' kinds.
            work: returns new tensors, and does the same for the same key.
            inputs: what it is called with; not written to.
            more: how many bytes it returns, where that is much.
        """
        size = more + _bytes(inputs)
        if size > MOST_BYTES:
            why = f"a recording would keep {size >> 20} MiB, more than {MOST_BYTES >> 20}."
            return Done(work(*inputs), why)
        device = next(t.device for t in inputs if t is not None)
        why = RECORDER[0].obstacle(device)
        if why:  # for now, so it says nothing about this work
            return Done(work(*inputs), why)
        kinds = (None if t is None else (t.shape, t.dtype, t.device) for t in inputs)
        stream = torch_state.current_stream(device)
        with self.lock:
            found = self.met((key, stream, *kinds), work, inputs, after=2)
            if isinstance(found, WorkRecording):
                copy_all(found.inputs, inputs)
                found.replay()
                return Done(tuple(None if t is None else t.clone() for t in found.outputs))
        return Done(work(*inputs), found)

    def met(
        self,
        key: Hashable,
        work: Work,
        inputs: Sequence[Tensor | None],
        after: int,
        *,
        alone: bool = False,
    ) -> WorkRecording | str:
        """Return the recording of work, which is made when it is met for the ``after``-th time.

        Before that it is "", and why where it could not be made.

        Args:
            key: what the work depends on, its inputs' kinds among it.
            work: takes and returns tensors.
            inputs: what it is called with.
            after: how often it has to be met.
            alone: whether the outputs stay until the next replay of this very recording, whatever
                else is replayed in between.
        """
        with self.lock:
            found = self._known.pop(key, 0)
            if isinstance(found, int):
                found = found + 1 if found + 1 < after else _recorded(work, inputs, alone, found)
            self._known[key] = found
            while len(self._known) > self.most or self._held() > self.most_bytes:
                if len(self._known) == 1:
                    break
                self._known.popitem(last=False)
            return "" if isinstance(found, int) else found

    def known(self, key: Hashable) -> WorkRecording | None:
        """Return a recording that there is.

        Args:
            key: what the work depends on.
        """
        with self.lock:
            found = self._known.get(key)
            if not isinstance(found, WorkRecording):
                return None
            self._known.move_to_end(key)
            return found

    def _held(self) -> int:
        made = (found for found in self._known.values() if isinstance(found, WorkRecording))
        return sum(_bytes(found.inputs) + _bytes(found.outputs) for found in made)


def _recorded(
    work: Work, inputs: Sequence[Tensor | None], alone: bool, met: int
) -> WorkRecording | str | int:
    """Return the recording, why there can be none, or how often it was met if it is to wait."""
    try:
        # What is made in inference mode could not be written to outside of it.
        with torch.inference_mode(False), torch.no_grad():
            own = tuple(None if t is None else t.clone() for t in inputs)
            return RECORDER[0].record(work, own, alone=alone)
    except BusyError:
        return met
    except Exception as raised:  # what cannot be captured runs as ever, and it is said
        # Nothing of it is kept, since its frames hold the graph and its memory.
        return f"it could not be recorded ({_first_line(raised)})"


def _first_line(raised: Exception) -> str:
    error = raised.__context__ or raised  # the end of a broken capture hides what broke it
    told = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {told[0]}"


def _bytes(tensors: Sequence[Tensor | None]) -> int:
    return sum(t.nbytes for t in tensors if t is not None)


REPLAYS = Replays()


class _Off(WorkRecorder):
    def obstacle(self, device: torch.device) -> str:
        return "recording is switched off."

    def record(self, work: Work, inputs: Tensors, *, alone: bool = False) -> WorkRecording:
        raise NotImplementedError


@contextmanager
def unrecorded() -> Iterator[None]:
    """Record and replay nothing meanwhile, in all threads, as where there is no GPU.

    Example:
        >>> with unrecorded():
        ...     obstacle(torch.device("cpu"))
        'recording is switched off.'
    """
    before, RECORDER[0] = RECORDER[0], _Off()
    try:
        yield
    finally:
        RECORDER[0] = before


def obstacle(device: torch.device) -> str:
    """Return why nothing can be recorded on a device, or recorded now; "" if it can.

    Args:
        device: where the work would run.
    """
    if torch_state.is_watched() or torch_state.is_transforming():
        return "a mode of torch's has to see single operations."
    if device.type != "meta" and torch.is_autocast_enabled(device.type):
        return "autocast keeps tensors of its own, which are gone when it ends."
    if torch.is_anomaly_enabled():
        return "anomaly detection looks at values."
    return RECORDER[0].obstacle(device)
