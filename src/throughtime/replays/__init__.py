"""Work on a GPU that is recorded once in a CUDA graph and replayed: a sweep, or a step."""

from .graphs import REPLAYS, Recording, Replays, Tensors, Work, recorded_by_cuda
from .seen import Seen
from .steps import Steps, replayed

__all__ = [
    "REPLAYS",
    "Recording",
    "Replays",
    "Seen",
    "Steps",
    "Tensors",
    "Work",
    "recorded_by_cuda",
    "replayed",
]
