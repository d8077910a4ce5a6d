"""What the gradient does in the backward pass: measured, neither judged nor drawn."""

from . import lags
from .export import FlowSummary, LayerSummary, from_dict
from .flow import Flow
from .layer_flow import LayerFlow
from .marking import mark, mark_steps
from .nonfinite import NonFinite
from .tracing import Trace, trace
from .view import LayerView
from .windows import Sample

__all__ = [
    "Flow",
    "FlowSummary",
    "LayerFlow",
    "LayerSummary",
    "LayerView",
    "NonFinite",
    "Sample",
    "Trace",
    "from_dict",
    "lags",
    "mark",
    "mark_steps",
    "trace",
]
