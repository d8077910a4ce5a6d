"""The engines that run `throughtime.sweep`'s two sweeps faster, and the one place that chooses.

``available()`` lists what is installed, ``use(...)`` chooses, and ``choice(cell)`` says what runs
and why no preferred engine does. An engine has five verbs: ``outputs`` and ``forward`` move through
time, ``backward`` moves back, ``gradients`` is a layer's whole backward pass, and ``losses`` takes
many losses at once.
"""

from .choose import ENGINES, choice, follows_autocast, in_one_call, leaves_a_graph, prepare, use
from .chosen import Choice, last_choice
from .cpu.arguments import know
from .cpu.engine import Available, available
from .engine import Demand, Engine, Losses, Outputs, Prepared
from .verbs import backward, forward, gradients, losses, outputs

__all__ = [
    "ENGINES",
    "Available",
    "Choice",
    "Demand",
    "Engine",
    "Losses",
    "Outputs",
    "Prepared",
    "available",
    "backward",
    "choice",
    "follows_autocast",
    "forward",
    "gradients",
    "in_one_call",
    "know",
    "last_choice",
    "leaves_a_graph",
    "losses",
    "outputs",
    "prepare",
    "use",
]
