"""Work on a GPU that is recorded once in a CUDA graph and replayed: a sweep, or a step."""

from .graphs import (
    MOST_BYTES,
    REPLAYS,
    Recording,
    Replays,
    Tensors,
    Work,
    obstacle,
    recorded_by_cuda,
)
from .seen import Seen
from .steps import Steps, replayed

__all__ = [
    "MOST_BYTES",
    "REPLAYS",
    "Recording",
    "Replays",
    "Seen",
    "Steps",
    "Tensors",
    "Work",
    "obstacle",
    "recorded_by_cuda",
    "replayed",
]
