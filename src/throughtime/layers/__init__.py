"""The layers: drop-in for ``torch.nn``'s, and one over any cell."""

from .convert import convert
from .modules import GRU, LSTM, RNN
from .recurrent import Recurrent

__all__ = ["GRU", "LSTM", "RNN", "Recurrent", "convert"]
