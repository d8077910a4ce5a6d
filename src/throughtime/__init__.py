"""The gradient's way back through time in a recurrent network."""

from . import cells, errors
from .flow import Flow, LayerFlow, NonFinite, Trace, trace
from .layers import GRU, LSTM, RNN, Recurrent, convert

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Flow",
    "LayerFlow",
    "NonFinite",
    "Recurrent",
    "Trace",
    "cells",
    "convert",
    "errors",
    "trace",
]
