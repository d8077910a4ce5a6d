"""What gate biases keep by themselves, and what to say where that is long already."""

from __future__ import annotations

from ..cells import GRU, LSTM
from ..cells.base import AbstractCell

__all__ = ["already", "kept_by_biases"]


def kept_by_biases(cell: AbstractCell | None, *, share: float = 0.9) -> float:
    """Return for how many steps the gate biases alone keep the longest memories; 0: not known.

    A gate that stays at σ(b) keeps for 1 + e^b steps. That which ``share`` of the units do not
    exceed counts, so that a single unit decides nothing. Biases that training opened are seen too.

    Args:
        cell: the recurrence.
        share: of the units.

    Example:
        >>> cell = tt.cells.LSTM(3, 400)
        >>> kept_by_biases(cell) < 3, 80 < kept_by_biases(tt.remedies.chrono_(cell, 100)) < 100
        (True, True)
    """
    if not isinstance(cell, (LSTM, GRU)):
        return 0.0
    weights = cell.weights()
    if "bias_ih" not in weights or "bias_hh" not in weights:
        return 0.0
    bias = (weights["bias_ih"] + weights["bias_hh"]).detach()
    # f of an LSTM and z of a GRU are both the second block.
    kept = bias.chunk(cell.gates)[1].double().exp() + 1
    return float(kept.quantile(share))


def already(kept: float) -> str:
    """Return what to do where the biases need no more of it.

    Args:
        kept: what `kept_by_biases` returned.
    """
    return (
        f"The gate biases already keep for up to {kept:.0f} steps (chrono initialisation). Where "
        "the task needs more, set them for its lag; else train, with input and W_h small enough "
        "not to close the gates."
    )
