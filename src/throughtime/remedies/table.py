"""The table of remedies, in the order in which they are tried.

First what takes a cause away, then what lengthens the reach, that which is known to gain most
first, then what only bounds a step or its cost.
"""

from __future__ import annotations

from .base import Remedy
from .chrono import CHRONO
from .clip import CLIP
from .dtype import DTYPE
from .edge import EDGE
from .flossing import FLOSSING
from .forget_bias import FORGET_BIAS
from .gated_cell import GATED
from .identity import IDENTITY_RELU
from .layernorm_cell import LAYERNORM
from .leaky_cell import LEAKY
from .lengths import LENGTHS
from .orthogonal import ORTHOGONAL
from .refine_gates import REFINE_GATES
from .schedule import CHECKPOINTED, TRUNCATED
from .standardise import STANDARDISE
from .uniform_gates import UNIFORM_GATES

__all__ = ["REMEDIES"]

REMEDIES: dict[str, Remedy] = {
    remedy.name: remedy
    for remedy in (
        STANDARDISE,
        LENGTHS,
        CHRONO,
        GATED,
        UNIFORM_GATES,
        REFINE_GATES,
        ORTHOGONAL,
        IDENTITY_RELU,
        FORGET_BIAS,
        EDGE,
        LEAKY,
        FLOSSING,
        LAYERNORM,
        CLIP,
        DTYPE,
        TRUNCATED,
        CHECKPOINTED,
    )
}
