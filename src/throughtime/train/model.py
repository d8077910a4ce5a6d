"""A character model: its settings and its network."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from ..errors import InputValueError
from ..layers import GRU, LSTM, RNN
from ..remedies import chrono_

__all__ = ["CELLS", "CharModel", "Settings", "State"]

CELLS: dict[str, type[RNN] | type[GRU] | type[LSTM]] = {"rnn": RNN, "gru": GRU, "lstm": LSTM}

State = Tensor | tuple[Tensor, Tensor] | None


@dataclass(frozen=True)
class Settings:
    """What a character model is and how it is trained.

    Attributes:
        cell: "rnn", "gru" or "lstm".
        hidden: H.
        layers: how many, one above the other.
        width: of a character's embedding.
        window: T, characters a segment: as far as the gradient goes back.
        rows: B, streams side by side.
        rate: of Adam.
        clip: the most that the gradient's norm may be; 0 for no clipping.
        seed: of weights and samples.
        longest: lags, in characters, that the gate biases begin with (`remedies.chrono_`); 0: as
            torch begins.
    """

    cell: str = "lstm"
    hidden: int = 128
    layers: int = 1
    width: int = 32
    window: int = 64
    rows: int = 32
    rate: float = 3e-3
    clip: float = 1.0
    seed: int = 0
    longest: int = 0

    def __post_init__(self) -> None:
        """Look at the values.

        Raises:
            InputValueError: one that cannot be served.
        """
        if self.cell not in CELLS:
            raise InputValueError(f"cell must be one of {', '.join(CELLS)}; got {self.cell!r}.")
        for name in ("hidden", "layers", "width", "window", "rows"):
            if getattr(self, name) < 1:
                raise InputValueError(f"{name} must be at least 1; got {getattr(self, name)}.")
        if not 0 < self.rate <= 1e37:  # Adam divides it by 0.1 at first, in float32
            raise InputValueError(f"rate must be above 0 and at most 1e37; got {self.rate}.")
        if not 0 <= self.clip < math.inf:
            raise InputValueError(f"clip must be 0 (none) or above, finite; got {self.clip}.")
        if self.longest and (self.longest < 3 or self.cell == "rnn"):
            raise InputValueError(
                f"longest must be 0 (none) or at least 3, of a cell with gates (gru, lstm); got "
                f"{self.longest} of {self.cell}."
            )


class CharModel(nn.Module):
    """Embedding → recurrent layers → readout: x (T, B) → logits (T, B, characters)."""

    def __init__(self, characters: int, settings: Settings) -> None:
        """Build the model for so many characters."""
        super().__init__()
        self.embed = nn.Embedding(characters, settings.width)
        layer = CELLS[settings.cell]
        self.layer: nn.Module = layer(settings.width, settings.hidden, num_layers=settings.layers)
        self.readout = nn.Linear(settings.hidden, characters)
        if settings.longest:
            chrono_(self.layer, settings.longest)

    def forward(self, x: Tensor, state: State = None) -> tuple[Tensor, State]:
        """Read characters (T, B) from a state on; give logits and the state after them."""
        output, state = self.layer(self.embed(x), state)
        return self.readout(output), state
