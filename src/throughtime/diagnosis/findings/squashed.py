"""Which numbers of a cell are squashed, and at which end of its range one of them does harm."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ...cells import GRU, LSTM, Elman, LayerNormLSTM, Leaky, MinGRU, PeepholeLSTM, RefineLSTM
from ..look import Seen

__all__ = ["Block", "blocks", "sample"]

# A squashing function counts as flat where its slope is below this share of its steepest.
FLAT = 0.01
# So many steps of rows are looked at.
SAMPLED = 512
# An output gate that stays below this lets nothing of the cell out. Above it, it only makes h
# small, which the read-out's weights can make up for.
SHUT = 1e-3


class Gate(NamedTuple):
    """A part of a_t, and the function it goes through.

    Attributes:
        name: in words.
        squash: "sigmoid" or "tanh".
        harm: which end does harm where a unit stays there: "low" erases or never writes, "high"
            never changes, "both" passes no gradient; "" neither.
        slow: whether the end is reached by design where the memory is long (an input gate of 1/T).
        out: whether it only scales what is put out.
    """

    name: str
    squash: str
    harm: str
    slow: bool = False
    out: bool = False


LSTM_GATES = (
    Gate("input gates", "sigmoid", "low", True),
    Gate("forget gates", "sigmoid", "low"),
    Gate("candidates", "tanh", "both"),
    Gate("output gates", "sigmoid", "low", out=True),
)
GATES: dict[type, tuple[Gate, ...]] = {
    LSTM: LSTM_GATES,
    PeepholeLSTM: LSTM_GATES,
    LayerNormLSTM: LSTM_GATES,
    RefineLSTM: (
        Gate("refine gates", "sigmoid", ""),
        Gate("forget gates", "sigmoid", "low"),
        Gate("candidates", "tanh", "both"),
        Gate("output gates", "sigmoid", "low", out=True),
    ),
    GRU: (
        Gate("reset gates", "sigmoid", ""),
        Gate("update gates", "sigmoid", "high", True),
        Gate("candidates", "tanh", "both"),
    ),
    MinGRU: (Gate("update gates", "sigmoid", "low", True), Gate("candidates", "", "")),
}


class Block(NamedTuple):
    """A gate's values over a sample of steps.

    Attributes:
        gate: which.
        values: (N, H), after the squashing.
        alone: gives (N, H), what W_x x_t gives to its argument; None where that is not so plain.
        bias: (H,), what the biases give to it; None likewise.
        T: how many steps the layer has.
    """

    gate: Gate
    values: Tensor
    alone: Callable[[], Tensor | None]
    bias: Tensor | None
    T: int

    def limit(self) -> float:
        """Return the |argument| beyond which the function is flat."""
        return 3.0 if self.gate.squash == "tanh" else 6.0

    def flat(self) -> Tensor:
        """Return where the slope is below `FLAT` of its steepest, (N, H) bool."""
        if self.gate.squash == "tanh":
            return 1 - self.values * self.values < FLAT
        return 4 * self.values * (1 - self.values) < FLAT

    def may_stay(self, stays: float) -> bool:
        """Check whether any unit may be `harmful` at this share of the steps: by its mean alone."""
        if self.gate.harm == "both":
            size = torch.linalg.vector_norm(self.values, dim=0).square() / len(self.values)
            return not bool((size < stays * (1 - FLAT)).all())
        if not self.gate.harm:
            return False
        mean = self.values.mean(0)
        left = mean if self.gate.harm == "low" else 1 - mean
        return not bool((left > stays * self.edge() + 1 - stays).all())

    def edge(self) -> float:
        """Return how near its end a sigmoid does harm."""
        if self.gate.out:
            return SHUT
        # An input gate of 1/T is what remembers T steps: a tenth of it writes nothing.
        return min(FLAT / 4, 0.1 / self.T) if self.gate.slow else FLAT / 4

    def harmful(self) -> Tensor:
        """Return where it is flat at an end that does harm, (N, H) bool."""
        if self.gate.harm == "both":
            return self.flat()
        if not self.gate.harm:
            return torch.zeros_like(self.values, dtype=torch.bool)
        left = self.values if self.gate.harm == "low" else 1 - self.values
        return left < self.edge()


def sample(seen: Seen, values: Tensor) -> Tensor:
    """Return values (T, B, ·) at an even sample of the steps that rows take, (N, ·).

    Args:
        seen: the layer.
        values: of its steps and rows.
    """
    taken = values.flatten(0, 1)
    if seen.layer.tape.active is not None:
        taken = taken[seen.steps.flatten()]
    # A stride that shares no factor with the number of rows would be ideal; an odd one does.
    return taken[:: max(1, len(taken) // SAMPLED) | 1]


def blocks(seen: Seen) -> list[Block]:
    """Return the squashed parts of a layer's cell; none of a cell that is not known."""
    if "blocks" not in seen.known:
        seen.known["blocks"] = list(_squashed(seen))
    return seen.known["blocks"]


def _squashed(seen: Seen) -> Iterator[Block]:
    cell, tape = seen.cell, seen.layer.tape
    gates = next((found for kind, found in GATES.items() if type(cell) is kind), None)
    squash = getattr(cell, "nonlinearity", "")
    if gates is None and isinstance(cell, (Elman, Leaky)) and squash in ("tanh", "sigmoid"):
        gates = (Gate("units", squash, "both"),)
    if gates is None or cell is None or not tape.saved:
        return
    values = sample(seen, tape.saved[0]).chunk(len(gates), -1)
    weights = cell.weights()
    plain = not isinstance(cell, LayerNormLSTM)  # which normalises what the input gives

    def alone(i: int) -> Tensor | None:
        rows = weights["weight_ih"].chunk(len(gates))[i]
        return sample(seen, tape.x) @ rows.T if plain else None

    nothing = tape.s.new_zeros(())
    bias = sum((weights[n] for n in ("bias_ih", "bias_hh") if n in weights), start=nothing)
    bias = bias.chunk(len(gates), -1) if plain and bias.dim() else None
    for i, gate in enumerate(gates):
        if gate.squash:
            yield Block(
                gate,
                values[i],
                partial(alone, i),
                None if bias is None else bias[i],
                tape.T,
            )
