"""What to change, by verdict and kind of cell."""

from __future__ import annotations

from ..cells import GRU, LSTM, Elman
from ..flow import LayerFlow, NonFinite
from .evidence import Verdict

__all__ = ["advice"]


def advice(verdict: Verdict, layer: LayerFlow, bad: NonFinite | None) -> str:
    """Give what to change, in a sentence or two.

    Args:
        verdict: the layer's.
        layer: the layer.
        bad: its first non-finite number, if there is one.
    """
    cell = layer.cell
    if verdict is Verdict.NONFINITE and bad is not None:
        return _after_nonfinite(bad)
    if verdict is Verdict.EXPLODING:
        if isinstance(cell, Elman):
            return (
                "Clip the gradient's norm, and start from an orthogonal W_h, whose Jacobian "
                "cannot stretch a gradient."
            )
        return "Clip the gradient's norm; a smaller learning rate or smaller W_h lowers the gain."
    if verdict is Verdict.VANISHING and not bool((layer.total_norms != 0).any()):
        return "No loss sends any gradient into this layer: look at what lies between it and them."
    if verdict is Verdict.VANISHING:
        reach = _reach(layer)
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
    return "Nothing to change: the gradient arrives at every lag that was measured."


def _reach(layer: LayerFlow) -> str:
    horizon, farthest = layer.horizon(), len(layer.lag_profile()) - 1
    if horizon < farthest:
        steps = "1 step" if horizon == 1 else f"{horizon} steps"
        return f"What lies more than {steps} back hardly moves the weights. "
    return (
        f"The gradient still arrives over these {farthest} steps, but it falls from step to step, "
        "and over longer ones it will not. "
    )


def _after_nonfinite(bad: NonFinite) -> str:
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
