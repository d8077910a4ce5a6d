"""The network on the page: weights drawn once by a seed, and the same network as a layer here."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from ..cells import GRU, LSTM, Elman
from ..cells.base import GatedWeights
from ..errors import InputValueError
from ..layers import Recurrent
from .texts import vocabulary

__all__ = ["CELLS", "Drawn", "Settings", "drawn", "encode", "layer"]

# A network of 32 units is one of many. Of sixty seeds this is one of the sixteen in which an LSTM
# with open gates sends less to the far name than to the near one, as a reader expects; in the
# others it stretches a little at each step, so that the far one gets more.
H, I, SEED = 32, 8, 18
# Which gate, in PyTorch's order, the slider "gate bias" is added to.
CELLS: dict[str, tuple[type[GatedWeights], int, int | None]] = {
    "Elman": (Elman, 1, None),
    "LSTM": (LSTM, 4, 1),
    "GRU": (GRU, 3, 1),
}
NONLINEARITIES = ("tanh", "relu", "sigmoid", "identity")


@dataclass(frozen=True)
class Settings:
    """Where the sliders stand.

    Attributes:
        cell: "Elman", "LSTM" or "GRU".
        gain: what the recurrent weights are multiplied by; with 1, W_h alone has a spectral radius
            near 1.
        bias: of the LSTM's forget gate or the GRU's update gate.
        nonlinearity: of the Elman cell.
        stop: which of `texts.readings` is the far text.
    """

    cell: str = "Elman"
    gain: float = 1.0
    bias: float = 0.0
    nonlinearity: str = "tanh"
    stop: int = 5


@dataclass(frozen=True)
class Drawn:
    """What chance decides, in float64.

    Attributes:
        W_h: (4H, H), of standard deviation 1/√H; a cell of fewer gates takes the first rows.
        W_x: (4H, I).
        words: (V, I), a vector for each word of `texts.vocabulary`.
        pull: (H), of length 1: what the loss sends into h at the blank.
    """

    W_h: Tensor
    W_x: Tensor
    words: Tensor
    pull: Tensor

    def to_dict(self) -> dict[str, Any]:
        """Return the sizes and the numbers, the latter as base64."""
        return {"H": H, "I": I, **{name: encode(value) for name, value in vars(self).items()}}


@cache
def drawn() -> Drawn:
    """Return the weights of every network on the page, drawn by one seed.

    Example:
        >>> drawn().W_h.shape, round(float(drawn().pull.norm()), 6)
        (torch.Size([128, 32]), 1.0)
    """
    generator = torch.Generator().manual_seed(SEED)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    W_h, W_x = normal(4 * H, H) / H**0.5, normal(4 * H, I) * 0.4 / I**0.5
    words, pull = normal(len(vocabulary()), I), normal(H)
    return Drawn(W_h, W_x, words, pull / pull.norm())


def encode(values: Tensor) -> str:
    """Return float64 numbers as base64, the little end first."""
    return base64.b64encode(values.contiguous().numpy().astype("<f8").tobytes()).decode("ascii")


def layer(settings: Settings) -> tuple[Recurrent, Tensor]:
    """Return the page's network as a layer of this package, and the vectors of its words.

    Args:
        settings: where the sliders stand.

    Returns:
        The layer, in float64; and (V, I), one row for each word of `texts.vocabulary`.

    Raises:
        InputValueError: no such cell or nonlinearity.

    Example:
        >>> recurrent, words = layer(Settings(cell="GRU", gain=0.8, bias=2.0))
        >>> tuple(recurrent.cell.weight_hh.shape), words.shape[1]
        ((96, 32), 8)
    """
    if settings.cell not in CELLS or settings.nonlinearity not in NONLINEARITIES:
        raise InputValueError(
            f"cell must be one of {', '.join(CELLS)} and nonlinearity one of "
            f"{', '.join(NONLINEARITIES)}; got {settings.cell!r}, {settings.nonlinearity!r}."
        )
    kind, gates, biased = CELLS[settings.cell]
    numbers, rows = drawn(), gates * H
    bias = torch.zeros(rows, dtype=torch.float64)
    if biased is not None:
        bias[biased * H : (biased + 1) * H] = settings.bias
    weights = {
        "weight_ih": numbers.W_x[:rows],
        "weight_hh": numbers.W_h[:rows] * settings.gain,
        "bias_ih": bias,
        "bias_hh": torch.zeros_like(bias),
    }
    options = {"nonlinearity": settings.nonlinearity} if kind is Elman else {}
    own = {name: nn.Parameter(weight.clone()) for name, weight in weights.items()}
    return Recurrent(kind.over(own, **options)), numbers.words
