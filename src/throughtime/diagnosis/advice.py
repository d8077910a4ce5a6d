"""What to change, by verdict and kind of cell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ..cells import GRU, LSTM, Elman
from ..flow import LayerView
from ..flow.nonfinite import NonFinite
from .evidence import Verdict, percent
from .gate_biases import already, kept_by_biases
from .per_row import Rows

__all__ = ["Found", "advice"]


@dataclass(frozen=True)
class Found:
    """What a verdict came from.

    Attributes:
        verdict: the layer's.
        rows: what was measured in each row.
        group: (B,) bool, the rows in which the verdict holds.
        shares: of the rows, for each verdict that holds in one.
        covered: whether every step of the group gets its share from all losses together.
    """

    verdict: Verdict
    rows: Rows
    group: Tensor
    shares: Mapping[Verdict, float]
    covered: bool

    def horizon(self, layer: LayerView, fraction: float) -> int:
        """Return how far back a single loss lasts in a typical row of the group, by lag."""
        if not self.rows.followed and (len(self.shares) < 2 or self.verdict is Verdict.NONFINITE):
            return layer.horizon(fraction)
        return self.rows.horizon(self.group, fraction)


def advice(found: Found, layer: LayerView, fraction: float) -> str:
    """Return what to change, in a few sentences.

    Args:
        found: the verdict and what it came from.
        layer: the layer.
        fraction: what share of the norm still counts as arriving.
    """
    verdict, cell, bad = found.verdict, layer.cell, layer.first_nonfinite
    if verdict is Verdict.NONFINITE and bad is not None:
        return _after_nonfinite(bad, layer)
    if verdict is Verdict.EXPLODING:
        return _in_some_rows(found) + _after_exploding(found, layer)
    if verdict is Verdict.VANISHING and not bool(found.rows.reached.any()):
        return "No loss sends any gradient into this layer: look at what lies between it and them."
    if verdict is Verdict.VANISHING:
        reach = _in_some_rows(found) + _reach(found, layer, fraction)
        if (kept := kept_by_biases(cell)) >= layer.T / 2:
            return reach + already(kept)
        if isinstance(cell, (LSTM, GRU)):
            return reach + (
                "Set the gate biases for the lag that the task needs (chrono initialisation) "
                "before training."
            )
        if isinstance(cell, Elman):
            return reach + (
                "Use a gated cell (LSTM or GRU with gate biases for the lag), or an orthogonal "
                "W_h with identity or ReLU."
            )
        return reach + "Give the state a path from step to step that is close to the identity."
    return _healthy(found)


def _in_some_rows(found: Found) -> str:
    """Return what the rest of the advice speaks of, where that is not all rows."""
    if len(found.shares) < 2:
        return ""
    what = "explodes" if found.verdict is Verdict.EXPLODING else "vanishes"
    return f"The gradient {what} in {percent(found.shares[found.verdict])} of the rows. "


def _after_exploding(found: Found, layer: LayerView) -> str:
    if isinstance(layer.cell, Elman):
        words = (
            "Clip the gradient's norm, and start from an orthogonal W_h, whose Jacobian "
            "cannot stretch a gradient."
        )
    else:
        words = "Clip the gradient's norm; a smaller learning rate or smaller W_h lowers the gain."
    vanishing = found.shares.get(Verdict.VANISHING)
    if vanishing is None:
        return words
    return words + (
        f" In {percent(vanishing)} of the rows it vanishes instead, and clipping does not bring "
        "that back."
    )


def _reach(found: Found, layer: LayerView, fraction: float) -> str:
    """Return what the weights learn little from."""
    rows = found.rows
    if rows.unit == "step":
        first, last = rows.silent(found.group, fraction)
        if last < 0:
            return (
                "The gradient still arrives at every step, but it falls from step to step, and "
                "over longer sequences it will not. "
            )
        span = f"Step {first} gets" if first == last else f"Steps {first} to {last} get"
        return (
            f"{span} less than {percent(fraction)} of the gradient that entered after: what "
            "happens there hardly moves the weights. "
        )
    horizon, farthest = found.horizon(layer, fraction), int(rows.length[found.group].max())
    if horizon >= farthest:
        return (
            f"The gradient still arrives over these {farthest} steps, but it falls from step to "
            "step, and over longer ones it will not. "
        )
    steps = "1 step" if horizon == 1 else f"{horizon} steps"
    if found.covered:
        return (
            f"A single loss reaches back only {steps}. Every step is still reached, by the losses "
            "nearer to it, so the weights learn from all of them, but not what takes more than "
            f"{steps}. "
        )
    return f"What lies more than {steps} back hardly moves the weights. "


def _healthy(found: Found) -> str:
    few = found.shares.get(Verdict.VANISHING)
    beside = "" if few is None else f" In {percent(few)} of the rows it vanishes."
    if found.rows.unit == "lag":
        return f"Nothing to change: the gradient arrives at every lag that was measured.{beside}"
    words = "Nothing to change: the gradient of this loss arrives at every step before it."
    if bool(found.rows.several[found.group].any()):
        words += (
            " It enters at more than one step; give one loss per step to see how far back each of "
            "them reaches."
        )
    return words + beside


def _after_nonfinite(bad: NonFinite, layer: LayerView) -> str:
    if bad.direction == "input":
        return "The input itself is inf or NaN there, though the states are not: clean the data."
    if bad.direction == "weight":
        return "A weight is inf or NaN before this run: go back to the last ones that were finite."
    if bad.direction == "gradient":
        return (
            "States and adjoints are finite, but a term of the weights' gradient overflows, or "
            "has no derivative there: scale the loss or the input down."
        )
    if bad.direction == "forward" and bad.step > 0:
        read = layer.tape.x[bad.step - 1, bad.row]
        if not bool(read.isfinite().all()):
            return "What this layer reads at that step is inf or NaN itself: begin there."
    if bad.kind == "inf" and bad.direction == "forward":
        return (
            "The state itself overflows: use a saturating nonlinearity, or lower the gain of W_h. "
            "Clipping gradients does not help a forward overflow."
        )
    if bad.kind == "inf":
        return (
            "The gradient overflows on its way back: lower the gain of W_h or cut the sequence; "
            "clipping the finished gradient comes too late, because inf cannot be scaled."
        )
    if bad.direction == "forward":
        return "The state is NaN without an inf before it: look at the input of that step."
    return "The gradient is NaN without an inf before it: look at the loss at that step."
