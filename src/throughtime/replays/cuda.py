"""Work recorded in torch's CUDA graphs, and whether a device does that."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, NamedTuple
from weakref import WeakSet

import torch
from torch import Tensor

from .. import torch_state

__all__ = [
    "CUDA",
    "BusyError",
    "Tensors",
    "Work",
    "WorkRecorder",
    "WorkRecording",
    "copy_all",
]

Tensors = tuple["Tensor | None", ...]
Work = Callable[..., Tensors]


class WorkRecording(NamedTuple):
    """Work that is replayed: where it reads, where it writes, and the replay itself."""

    inputs: Tensors
    outputs: Tensors
    replay: Callable[[], Any]


def copy_all(to: Sequence[Tensor | None], given: Sequence[Tensor | None]) -> None:
    """Copy tensors, in one launch where they are alike enough; None stays."""
    pairs = [(a, b) for a, b in zip(to, given, strict=True) if a is not None and b is not None]
    with torch.no_grad():  # or memory that is written again and again would get a graph
        for kind in dict.fromkeys(a.dtype for a, _ in pairs):
            some = [pair for pair in pairs if pair[0].dtype == kind]
            torch._foreach_copy_(  # pyright: ignore[reportPrivateImportUsage]
                [a for a, _ in some], [b for _, b in some]
            )


class WorkRecorder(ABC):
    """Who records."""

    @abstractmethod
    def obstacle(self, device: torch.device) -> str:
        """Return why nothing can be recorded on a device, or recorded now; "" if it can.

        Args:
            device: where the work would run.
        """

    @abstractmethod
    def record(self, work: Work, inputs: Tensors, *, alone: bool = False) -> WorkRecording:
        """Record work over these very inputs.

        Args:
            work: launches kernels and returns tensors; it must not look at any value.
            inputs: what it is called with.
            alone: whether no other replay may write where its outputs are. Otherwise they are to
                be read before anything else is replayed on the stream.
        """


class BusyError(RuntimeError):
    """Another thread is recording: try again later."""


class _Graphs(WorkRecorder):
    """Torch's CUDA graphs.

    All are captured on one stream of a device, in two pools of memory for each stream that they
    are replayed on. In one, a graph's outputs stay in the pool, and are copied out before the next
    replay. In the other, every graph copies its outputs out by itself, so that no replay writes
    where they are.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # torch takes one capture at a time
        # A pool may be shared by captures on one stream, so that stream is kept.
        self._sides: dict[torch.device, torch.cuda.Stream] = {}
        self._pools: dict[tuple[torch.device, int, bool], _Pool] = {}

    def obstacle(self, device: torch.device) -> str:
        """Return whether a first recording failed or was wrong there, or another one is made."""
        if device.type != "cuda":
            return f"CUDA graphs are for a CUDA device, and this is {device}."
        if torch.cuda.is_current_stream_capturing():
            return "the caller is recording a CUDA graph of its own."
        if not self._lock.acquire(blocking=False):
            return "another thread is recording."
        try:  # what is kept of a first try must not be that another thread was at it
            return _trial(device)
        finally:
            self._lock.release()

    def record(self, work: Work, inputs: Tensors, *, alone: bool = False) -> WorkRecording:
        """Record work in a CUDA graph.

        Raises:
            BusyError: another thread is recording. It may need this very thread for a backward pass
                within its capture, so nobody waits here.
        """
        if not self._lock.acquire(blocking=False):
            raise BusyError("another thread is recording")
        try:
            device = next(t.device for t in inputs if t is not None)
            with torch.cuda.device(device):
                return self._record(device, work, inputs, alone)
        finally:
            self._lock.release()

    def _record(
        self, device: torch.device, work: Work, inputs: Tensors, alone: bool
    ) -> WorkRecording:
        now = torch.cuda.current_stream()
        side = self._sides.get(device) or self._sides.setdefault(device, torch.cuda.Stream())
        side.wait_stream(now)
        try:
            with torch.cuda.stream(side):  # once before, so that libraries make what they need
                found = work(*inputs)
        finally:
            now.wait_stream(side)  # also where it fails: what was launched reads the inputs
        kept = tuple(None if t is None else t.clone() for t in found) if alone else None
        where = device, torch_state.current_stream(device), alone
        pool = self._pools.pop(where, None)
        if pool is None or not pool.graphs:  # one that no graph holds is gone
            pool = _Pool(torch.cuda.graph_pool_handle(), WeakSet())
        graph = torch.cuda.CUDAGraph()
        with _restoring(now, device, pool.handle), _own_workspaces():
            mode = "thread_local"
            with torch.cuda.graph(graph, pool=pool.handle, stream=side, capture_error_mode=mode):
                outputs = work(*inputs)
                if kept is not None:
                    copy_all(kept, outputs)
        # Not where it failed: a pool is left in an unknown state then.
        pool.graphs.add(graph)
        self._pools[where] = pool
        return WorkRecording(inputs, outputs if kept is None else kept, graph.replay)


class _Pool(NamedTuple):
    """Memory of graphs, and those that hold it: without any torch forgets it."""

    handle: Any
    graphs: WeakSet[Any]


@contextmanager
def _restoring(stream: torch.cuda.Stream, device: torch.device, pool: Any) -> Iterator[None]:
    """Put back what torch leaves where a capture that was broken off cannot be ended.

    `torch.cuda.graph` then raises before it leaves its stream, and before the allocator is told
    that the capture is over.
    """
    try:
        yield
    except BaseException:
        torch.cuda.set_stream(stream)
        with suppress(Exception):  # it was told, which is the usual case
            torch_state.end_capture(device, pool)
        raise


@contextmanager
def _own_workspaces() -> Iterator[None]:
    """Let what is captured have workspaces of cuBLAS in its own pool.

    They are kept for a stream, and torch frees those of the capture stream with any graph of it,
    whoever else was captured with them.
    """
    torch_state.clear_workspaces()
    try:
        yield
    finally:
        torch_state.clear_workspaces()


CUDA = _Graphs()


@cache
def _trial(device: torch.device) -> str:
    """Return why a first recording on a device failed or was wrong; "" if all is well."""
    with torch.inference_mode(False), torch.no_grad():
        try:
            given = torch.arange(5.0, device=device)
            made = CUDA.record(lambda a: (2 * a + 1,), (given.clone(),))
            own, out = made.inputs[0], made.outputs[0]
            assert own is not None and out is not None
            own.copy_(3 * given)
            made.replay()
            right = bool((out == 6 * given + 1).all())
        except Exception as error:  # whatever the driver raises
            return f"a CUDA graph cannot be recorded on {device}: {type(error).__name__}: {error}"
    return "" if right else f"a CUDA graph recorded on {device} gave other numbers."
