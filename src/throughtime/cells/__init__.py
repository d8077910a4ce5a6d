"""The recurrences: each file holds a cell's equations, step, adjoint and parameter gradients."""

from .base import AbstractCell
from .elman import Elman
from .function import Function
from .gru import GRU
from .lstm import LSTM

__all__ = ["GRU", "LSTM", "AbstractCell", "Elman", "Function"]
