"""The same two sweeps as `throughtime.sweep`, compiled; one table chooses.

``available()`` says what there is, ``use(...)`` chooses, ``choice(cell)`` says what runs and why
not the other. ``gradients`` is a layer's whole way back, ``losses`` many losses at once.
"""

from .bare import complete, taken
from .blocks import as_a_graph
from .choose import Available, Choice, available, choice, last_choice, use
from .losses import Losses, losses
from .native import empty
from .outputs import Outputs, joined, outputs, split
from .prepared import Prepared, Taken, filled, prepare
from .steps import know
from .sweeps import backward, forward
from .train import Gradients, gradients

__all__ = [
    "Available",
    "Choice",
    "Gradients",
    "Losses",
    "Outputs",
    "Prepared",
    "Taken",
    "as_a_graph",
    "available",
    "backward",
    "choice",
    "complete",
    "empty",
    "filled",
    "forward",
    "gradients",
    "joined",
    "know",
    "last_choice",
    "losses",
    "outputs",
    "prepare",
    "split",
    "taken",
    "use",
]
