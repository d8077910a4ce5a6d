"""Many launches of the same shapes, recorded once in a CUDA graph and replayed.

A launch from Python costs more than a small step computes. So the second sweep of a shape is
recorded, and later ones copy their inputs to where the record reads them.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = [
    "MOST_BYTES",
    "REPLAYS",
    "Recording",
    "Replays",
    "Tensors",
    "Work",
    "copy_all",
    "obstacle",
    "recorded_by_cuda",
]

Tensors = tuple["Tensor | None", ...]
Work = Callable[..., Tensors]
# A recording keeps what it reads and writes; a sweep with more than this is not recorded.
MOST_BYTES = 1 << 28


class Recording(NamedTuple):
    """Work that is replayed: where it reads, where it writes, and the replay itself."""

    inputs: Tensors
    outputs: Tensors
    replay: Callable[[], Any]


# Graphs on one stream share a pool of memory, since there they run one after the other.
_POOLS: dict[tuple[int, int], Any] = {}


def recorded_by_cuda(work: Work, inputs: Tensors) -> Recording:
    """Record work in a CUDA graph, over these very inputs.

    Args:
        work: launches kernels and returns tensors; it must not look at any value.
        inputs: what it is called with.
    """
    graph, now = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    side = torch.cuda.Stream()
    side.wait_stream(now)
    with torch.cuda.stream(side):  # once before, so that libraries make what they need themselves
        work(*inputs)
    now.wait_stream(side)
    where = now.device.index, now.cuda_stream
    if where not in _POOLS:
        _POOLS[where] = torch.cuda.graph_pool_handle()
    with torch.cuda.graph(
        graph, pool=_POOLS[where], stream=side, capture_error_mode="thread_local"
    ):
        outputs = work(*inputs)
    return Recording(inputs, outputs, graph.replay)


def copy_all(to: Sequence[Tensor | None], given: Sequence[Tensor | None]) -> None:
    """Copy tensors, in one launch where they are alike enough; None stays."""
    pairs = [(a, b) for a, b in zip(to, given, strict=True) if a is not None and b is not None]
    for kind in dict.fromkeys(a.dtype for a, _ in pairs):
        some = [pair for pair in pairs if pair[0].dtype == kind]
        torch._foreach_copy_([a for a, _ in some], [b for _, b in some])


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
        self.most, self.record = most, record
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
        whole_key = (key, _stream(inputs), *kinds)
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
                found = self._known[whole_key] = self.record(work, own)
            copy_all(found.inputs, inputs)
            found.replay()
            return tuple(None if t is None else t.clone() for t in found.outputs)


def _stream(inputs: Sequence[Tensor | None]) -> int:
    """Return the stream on which the work would run: two may not share a recording's memory."""
    device = next(t.device for t in inputs if t is not None)
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0


REPLAYS = Replays()


def obstacle(device: torch.device) -> str:
    """Return why nothing can be recorded on a device, or recorded now; "" if it can.

    Args:
        device: where the work would run.
    """
    if REPLAYS.record is not recorded_by_cuda:
        return ""
    if device.type != "cuda":
        return f"CUDA graphs are for a CUDA device; the weights are on {device}."
    if torch.cuda.is_current_stream_capturing():
        return "the caller is recording a CUDA graph of its own."
    return _trial(device)


@cache
def _trial(device: torch.device) -> str:
    """Return why a first recording on a device failed or was wrong; "" if all is well."""
    with torch.cuda.device(device):
        given = torch.arange(5.0, device=device)
        try:
            made = recorded_by_cuda(lambda a: (2 * a + 1,), (given.clone(),))
            copy_all(made.inputs, (3 * given,))
            made.replay()
            right = bool((made.outputs[0] == 6 * given + 1).all())
        except Exception as error:  # whatever the driver raises
            return f"a CUDA graph cannot be recorded on {device}: {type(error).__name__}: {error}"
    return "" if right else f"a CUDA graph recorded on {device} gave other numbers."
