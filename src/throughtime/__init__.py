"""The gradient's way back through time in a recurrent network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import cells, errors, kernels
from .diagnosis import Diagnosis, Evidence, Finding, Verdict, diagnose, examine
from .errors import ConvertWarning, MonitorWarning
from .flow import Flow, LayerFlow, NonFinite, Trace, mark, mark_steps, trace
from .layers import GRU, LSTM, RNN, Recurrent, convert, per_sample_grads, set_through, unconvert
from .schedules import Checkpointed, Full, Truncated
from .streams import Stream, segments, stream

if TYPE_CHECKING:
    from . import remedies, testing
    from .online import rtrl
    from .remedies import treat
    from .report import figure, write_report
    from .watch import Monitor

    __version__: str

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Checkpointed",
    "ConvertWarning",
    "Diagnosis",
    "Evidence",
    "Finding",
    "Flow",
    "Full",
    "LayerFlow",
    "Monitor",
    "MonitorWarning",
    "NonFinite",
    "Recurrent",
    "Stream",
    "Trace",
    "Truncated",
    "Verdict",
    "cells",
    "convert",
    "diagnose",
    "errors",
    "examine",
    "figure",
    "kernels",
    "mark",
    "mark_steps",
    "per_sample_grads",
    "remedies",
    "rtrl",
    "segments",
    "set_through",
    "stream",
    "testing",
    "trace",
    "treat",
    "unconvert",
    "write_report",
]

# Loaded when first asked for, so that importing the package stays quick.
LAZY = {
    "figure": "report",
    "write_report": "report",
    "rtrl": "online",
    "testing": "",
    "remedies": "",
    "treat": "remedies",
    "Monitor": "watch",
}


def _html(flow: Flow) -> str:
    """Draw a flow for a notebook; what draws is loaded only then."""
    from importlib import import_module

    return import_module(".report.notebook", __name__).flow_html(flow)


Flow.html = _html


def _version() -> str:
    """Return what is installed; nothing where the package was only put on the path."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(__name__)
    except PackageNotFoundError:
        return "0+unknown"


if not TYPE_CHECKING:  # or a type checker would take any name for one of the package's

    def __getattr__(name: str):
        """Import what is drawn, and what only tests need, when it is first asked for."""
        if name == "__version__":
            return _version()
        if name not in LAZY:
            raise AttributeError(f"module 'throughtime' has no attribute {name!r}")
        from importlib import import_module

        if not LAZY[name]:
            return import_module(f".{name}", __name__)
        return getattr(import_module(f".{LAZY[name]}", __name__), name)
