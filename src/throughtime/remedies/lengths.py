"""Padded rows: the layer stops where each row ends."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ..errors import InputTypeError
from ..layers import GRU, LSTM, RNN, convert
from .around import Around
from .base import Case, Change, Remedy
from .places import Place

__all__ = ["LENGTHS", "WithLengths", "unpadded_lengths", "with_lengths"]

OWN = (RNN, LSTM, GRU)
# The share of rows that must end in padding for the remedy to fit.
SHARE = 0.25


class WithLengths(Around):
    """A layer that takes no step past the end of a row, which it finds in its input.

    Past a row's end the output repeats the row's last one, so that ``output[:, -1]`` and h_n both
    are what the row ended with.
    """

    def forward(self, input: Any, hx: Any = None, **named: Any) -> Any:
        """Run the layer; lengths that are given, or packed, are taken as they are."""
        if isinstance(input, PackedSequence) or named.get("lengths") is not None:
            return self.layer(input, hx, **named)
        if input.dim() != 3 or named.get("mask") is not None:
            return self.layer(input, hx, **named)
        time = 1 if self.layer.batch_first else 0
        lengths = unpadded_lengths(input.transpose(0, time))
        output, state = self.layer(input, hx, lengths=lengths, **named)
        h = output.transpose(0, time)
        steps = torch.arange(h.shape[0], device=h.device)[:, None]
        at = torch.minimum(steps, lengths.to(h.device) - 1)
        held = h.gather(0, at[:, :, None].expand_as(h))
        return held.transpose(0, time), state


def unpadded_lengths(x: Tensor) -> Tensor:
    """Return how long rows are before their padding, (B,): at least 1.

    Padding is the input that most rows end in at least twice in a row; rows without it keep all
    their steps.

    Args:
        x: (T, B, I).

    Example:
        >>> x = torch.ones(5, 3, 1); x[3:, 0], x[2:, 1] = 0, 0
        >>> x[:, 2, 0] = torch.arange(5)
        >>> unpadded_lengths(x).tolist()
        [3, 2, 5]
    """
    T, B, _ = x.shape
    full = torch.full((B,), T, dtype=torch.long)
    x = x.detach()
    twice = (x[-1] == x[-2]).all(-1) if T > 1 else torch.zeros(B, dtype=torch.bool)
    if not bool(twice.any()):
        return full
    ends, counts = x[-1][twice].unique(dim=0, return_counts=True)
    pad = ends[counts.argmax()]
    # The last step that is no padding.
    said = (x != pad).any(-1).long()
    last = T - said.flip(0).argmax(0)
    return torch.where(said.any(0), last, 1).cpu()


def with_lengths(layer: nn.Module) -> WithLengths:
    """Return a module that runs a layer over each row's own length, which it finds in the input.

    Where the lengths are known, giving them is better: ``layer(x, lengths=lengths)``, which every
    layer of this package takes. The layer is converted to this package's.

    Args:
        layer: an `nn.RNN`, `nn.LSTM`, `nn.GRU`, or one of this package's.

    Raises:
        InputTypeError: it is none.

    Example:
        >>> layer, x = with_lengths(torch.nn.GRU(1, 4)), torch.randn(9, 2, 1)
        >>> x[5:, 0] = 0
        >>> output, h_n = layer(x)
        >>> bool((output[-1] == h_n[0]).all()), bool((output[4, 0] == h_n[0, 0]).all())
        (True, True)
    """
    if not isinstance(convert(layer) if isinstance(layer, nn.RNNBase) else layer, OWN):
        raise InputTypeError(f"with_lengths takes an RNN, LSTM or GRU; got {type(layer).__name__}.")
    return WithLengths(layer)


def _fits(case: Case, place: Place) -> bool:
    layer = case.layers(place)[0]
    kinds = (nn.RNN, nn.LSTM, nn.GRU, *OWN)
    if not isinstance(place.module, kinds) or type(place.module) not in kinds:
        return False
    if layer.tape.active is not None or layer.cell is None:
        return False
    lengths = unpadded_lengths(layer.tape.x)
    padded = lengths < layer.T
    return float(padded.float().mean()) >= SHARE and len(lengths.unique()) > 1


def _change(case: Case, place: Place) -> Change:
    del case
    at = place.expression
    line = f"{at} = with_lengths({at})  # better: tt.convert(model), and {at}(x, lengths=lengths)"
    return Change(line, with_lengths(place.module), ("with_lengths",))


LENGTHS = Remedy(
    name="lengths",
    against=("reads-padding",),
    what="No step past the end of a row: its last state is that of its last real step.",
    formula="s_t = s_{t−1} for t > length; the output repeats h there",
    source="as torch.nn.utils.rnn.pack_padded_sequence; `lengths=` of this package's layers",
    gains="A sentiment model on padded rows: accuracy .53 without, 1.00 with. Nothing where no "
    "loss reads the padding.",
    fits=_fits,
    change=_change,
)
