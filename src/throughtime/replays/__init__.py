"""Work on a GPU that is recorded once in a CUDA graph and replayed: a sweep, or a step."""

from .cuda import Tensors, Work, WorkRecorder, WorkRecording
from .graphs import REPLAYS, Done, Replays, obstacle, unrecorded
from .seen import StepObserver
from .steps import Steps, replayed

__all__ = [
    "REPLAYS",
    "Done",
    "Replays",
    "StepObserver",
    "Steps",
    "Tensors",
    "Work",
    "WorkRecorder",
    "WorkRecording",
    "obstacle",
    "replayed",
    "unrecorded",
]
