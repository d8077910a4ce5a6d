"""Work recorded in torch's CUDA graphs, and whether a device does that."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import torch_state

__all__ = ["CUDA", "Tensors", "Work", "WorkRecorder", "WorkRecording"]

Tensors = tuple["Tensor | None", ...]
Work = Callable[..., Tensors]


class WorkRecording(NamedTuple):
    """Work that is replayed: where it reads, where it writes, and the replay itself."""

    inputs: Tensors
    outputs: Tensors
    replay: Callable[[], Any]


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


class _Graphs(WorkRecorder):
    """Torch's CUDA graphs."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # torch takes one capture at a time
        # A pool may be shared by captures on one stream, so that stream is kept with the pools.
        self._sides: dict[torch.device, torch.cuda.Stream] = {}
        self._pools: dict[tuple[torch.device, int], Any] = {}

    def obstacle(self, device: torch.device) -> str:
        """Return whether a first recording failed or was wrong there, or another one is made."""
        if device.type != "cuda":
            return f"CUDA graphs are for a CUDA device, and this is {device}."
        if torch.cuda.is_current_stream_capturing():
            return "the caller is recording a CUDA graph of its own."
        return _trial(device)

    def record(self, work: Work, inputs: Tensors, *, alone: bool = False) -> WorkRecording:
        """Record work in a CUDA graph."""
        device = next(t.device for t in inputs if t is not None)
        with self._lock, torch.cuda.device(device):
            now, graph = torch.cuda.current_stream(), torch.cuda.CUDAGraph()
            side = self._sides.get(device) or self._sides.setdefault(device, torch.cuda.Stream())
            side.wait_stream(now)
            with torch.cuda.stream(side):  # once before, so that libraries make what they need
                work(*inputs)
            now.wait_stream(side)
            where, pool = (device, torch_state.current_stream(device)), None
            if not alone:  # graphs of one stream run one after the other
                pool = self._pools.pop(where, None) or torch.cuda.graph_pool_handle()
            with torch.cuda.graph(graph, pool=pool, stream=side, capture_error_mode="thread_local"):
                outputs = work(*inputs)
            if pool is not None:  # not where it failed: a pool is left in an unknown state
                self._pools[where] = pool
        return WorkRecording(inputs, outputs, graph.replay)


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
