"""The layers: drop-in for ``torch.nn``'s, and one over any cell."""

from .convert import convert
from .modules import GRU, LSTM, RNN
from .per_sample import per_sample_grads
from .recurrent import Recurrent
from .segments import segments
from .stream import Stream, stream
from .through import set_through

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Recurrent",
    "Stream",
    "convert",
    "per_sample_grads",
    "segments",
    "set_through",
    "stream",
]
