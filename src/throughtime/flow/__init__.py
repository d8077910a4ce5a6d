"""What the gradient does on its way back: measured, neither judged nor drawn."""

from . import lags
from .flow import Flow
from .layer_flow import LayerFlow
from .marking import mark, mark_steps
from .nonfinite import NonFinite
from .tracing import Trace, trace

__all__ = ["Flow", "LayerFlow", "NonFinite", "Trace", "lags", "mark", "mark_steps", "trace"]
