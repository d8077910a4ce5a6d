"""The layers: drop-in for ``torch.nn``'s, and one over any cell."""

from .conversion import convert, unconvert
from .modules import GRU, LSTM, RNN
from .per_sample import per_sample_grads
from .recurrent import Recurrent
from .through import set_through

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Recurrent",
    "convert",
    "per_sample_grads",
    "set_through",
    "unconvert",
]
