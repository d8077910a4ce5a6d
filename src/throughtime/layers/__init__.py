"""The layers: drop-in for ``torch.nn``'s, and one over any cell."""

from .convert import convert
from .modules import GRU, LSTM, RNN
from .recurrent import Recurrent
from .through import set_through

__all__ = ["GRU", "LSTM", "RNN", "Recurrent", "convert", "set_through"]
