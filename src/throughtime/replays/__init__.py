"""Work on a GPU that is recorded once in a CUDA graph and replayed: a sweep, or a step."""

from .cuda import Recorder, Recording, Tensors, Work
from .graphs import REPLAYS, Done, Replays, obstacle, unrecorded
from .seen import Seen
from .steps import Steps, replayed

__all__ = [
    "REPLAYS",
    "Done",
    "Recorder",
    "Recording",
    "Replays",
    "Seen",
    "Steps",
    "Tensors",
    "Work",
    "obstacle",
    "replayed",
    "unrecorded",
]
