"""What to change when a network does not learn: one file and one row a remedy.

`REMEDIES` is the table; `treat` tries what fits on copies of a model and measures it again.
"""

from __future__ import annotations

from .base import Case, Change, Remedy
from .chrono import chrono_
from .clip import clip_gradient_, clipping
from .dtype import in_dtype
from .edge import edge_gain, scale_recurrent_
from .flossing import floss_
from .forget_bias import forget_bias_
from .gated_cell import gated
from .identity import identity_relu_
from .layernorm_cell import layer_normed
from .leaky_cell import leaky
from .lengths import with_lengths
from .orthogonal import orthogonal_
from .refine_gates import refined
from .standardise import standardised
from .table import REMEDIES
from .treatment import Row, Treatment
from .trial import treat
from .uniform_gates import uniform_gates_

__all__ = [
    "REMEDIES",
    "Case",
    "Change",
    "Remedy",
    "Row",
    "Treatment",
    "chrono_",
    "clip_gradient_",
    "clipping",
    "edge_gain",
    "floss_",
    "forget_bias_",
    "gated",
    "identity_relu_",
    "in_dtype",
    "layer_normed",
    "leaky",
    "orthogonal_",
    "refined",
    "scale_recurrent_",
    "standardised",
    "treat",
    "uniform_gates_",
    "with_lengths",
]
