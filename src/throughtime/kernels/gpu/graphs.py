"""Many launches of the same shapes, recorded once in a CUDA graph and replayed.

A launch from Python costs more than a small step computes. So the second sweep of a shape is
recorded, and later ones copy their inputs to where the record reads them.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["REPLAYS", "Recording", "Replays", "Tensors", "Work", "recorded_by_cuda"]

Tensors = tuple["Tensor | None", ...]
Work = Callable[..., Tensors]


class Recording(NamedTuple):
    """Work that is replayed: where it reads, where it writes, and the replay itself."""

    inputs: Tensors
    outputs: Tensors
    replay: Callable[[], Any]


def recorded_by_cuda(work: Work, inputs: Tensors) -> Recording:
    """Record work in a CUDA graph, over these very inputs.

    Args:
        work: launches kernels and returns tensors; it must not look at any value.
        inputs: what it is called with.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        outputs = work(*inputs)
    return Recording(inputs, outputs, graph.replay)


class Replays:
    """The recordings of the shapes used last.

    Attributes:
        most: how many are kept; each keeps the memory of one sweep.
    """

    def __init__(
        self, most: int = 8, record: Callable[[Work, Tensors], Recording] = recorded_by_cuda
    ) -> None:
        """Begin without any.

        Args:
            most: how many are kept.
            record: records work over inputs.
        """
        self.most, self._record = most, record
        self._known: OrderedDict[Hashable, Recording | None] = OrderedDict()
        self._lock = threading.Lock()

    def run(self, key: Hashable, work: Work, inputs: Sequence[Tensor | None]) -> Tensors:
        """Do the work: the first time of a shape as it is, from the second time on as recorded.

        Args:
            key: what the work depends on besides the inputs' kinds.
            work: returns new tensors, and does the same for the same key.
            inputs: what it is called with; not written to.
        """
        kinds = (None if t is None else (t.shape, t.dtype, t.device) for t in inputs)
        whole_key = (key, *kinds)
        with self._lock:
            if whole_key not in self._known:
                self._known[whole_key] = None
                while len(self._known) > self.most:
                    self._known.popitem(last=False)
                return work(*inputs)
            self._known.move_to_end(whole_key)
            found = self._known[whole_key]
            if found is None:
                own = tuple(None if t is None else t.clone() for t in inputs)
                found = self._known[whole_key] = self._record(work, own)
            for own, given in zip(found.inputs, inputs, strict=True):
                if own is not None and given is not None:
                    own.copy_(given)
            found.replay()
            return tuple(None if t is None else t.clone() for t in found.outputs)


REPLAYS = Replays()
