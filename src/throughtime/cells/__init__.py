"""The recurrences: each file holds a cell's equations, step, adjoint and parameter gradients."""

from .base import AbstractCell
from .elman import Elman
from .function import Function
from .gru import GRU
from .layernorm_lstm import LayerNormLSTM
from .leaky import Leaky
from .lstm import LSTM
from .mingru import MinGRU
from .peephole import PeepholeLSTM
from .refine_lstm import RefineLSTM

__all__ = [
    "GRU",
    "LSTM",
    "AbstractCell",
    "Elman",
    "Function",
    "LayerNormLSTM",
    "Leaky",
    "MinGRU",
    "PeepholeLSTM",
    "RefineLSTM",
]
