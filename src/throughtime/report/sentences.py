"""What a page says of a layer and of a flow in a sentence, and what it cannot tell."""

from __future__ import annotations

from collections.abc import Mapping

from ..flow import LayerView
from ..flow.shown import units
from .number_text import number, percent, steps

__all__ = ["LIMITS", "MANY", "began", "biased", "layer_facts", "meaning", "summary"]

# So many runs of one layer are shown each by itself.
MANY = 3
LIMITS = (
    "All of it was measured with these weights on this batch, at one moment of training. Other "
    "data, or the same network after an update, may behave otherwise.",
    "A norm says how much of a gradient arrives, not whether it points where learning is. That a "
    "gradient reaches a step does not mean that the network will learn from it; where none "
    "arrives, it cannot.",
    "The norms are those of the gradient itself. Adam and its kin divide by a running size, so a "
    "weight that gets only small gradients may still move; what is small compared with the other "
    "steps of the same weight stays small.",
    "The typical value at a lag is a median: single pairs of steps can lie far from it. The map "
    "shows them.",
    "A bound below 1 proves vanishing. A bound above 1 proves nothing, and no verdict here rests "
    "on one.",
    "The horizon is counted along one layer's time. Attention, skip connections or a second layer "
    "may carry the same information another way.",
    "A value that is exactly 0 may be underflow: the true one is below what its floating-point "
    "type can hold. Measuring in float64 tells the two apart.",
)


def meaning(layer: LayerView, fraction: float = 0.01) -> str:
    """Describe in one sentence how far back the gradient of a layer lasts.

    Args:
        layer: the flow of one layer.
        fraction: what the horizon's gradient must still be of lag 0.
    """
    horizon = int(layer.horizon(fraction))
    window = layer.window_ends
    longest = len(layer.lag_profile()) - 1 if window is None else window
    if layer.first_nonfinite is not None:
        return "There are values that are not finite, so no update of these weights can be used."
    top = layer.lag_profile().nan_to_num(0)
    if float(top.max()) > 100:
        factor, lag = float(top.max()), int(top.argmax())
        shown = f"{factor:,.0f}" if factor < 1e6 else number(factor, 2)
        return f"The gradient grows {shown}-fold over {steps(lag)} back."
    if horizon >= longest:
        return (
            f"The gradient keeps at least {percent(fraction)} of its size over "
            f"{'the one step' if longest == 1 else f'all {longest} steps'} measured."
        )
    # Of a scalar, each step's part is followed by itself, whatever the parts make together.
    what = "What enters at one step" if layer.split == "step" else "The gradient"
    return (
        f"{what} falls below {percent(fraction)} of its first size after {horizon} of the "
        f"{steps(longest)} that were measured."
    )


def began(layer: LayerView) -> str:
    """Describe where a layer first turned inf or NaN; an empty string where it did not.

    Args:
        layer: the flow of one layer.
    """
    first = layer.first_nonfinite
    if first is None:
        return ""
    kind = {"nan": "NaN"}.get(first.kind, first.kind)
    at = f"at step {first.step}, batch row {first.row}, unit {first.unit}"
    return f"First {kind}: {first.where}, {at}."


def biased(layer: LayerView) -> str:
    """Describe what training leaves out where a layer's schedule truncates; else an empty string.

    Args:
        layer: the flow of one layer.
    """
    if layer.through.exact:
        return ""
    shares = layer.dropped(layer.through)
    name = "weight_hh" if "weight_hh" in shares else max(shares, key=lambda n: shares[n])
    return (
        f"This layer is trained under {layer.through}, whose gradient is biased. What is shown "
        f"here is the exact one; the part of it that training leaves out is "
        f"{percent(shares[name])} of it in size, for {name}."
    )


def layer_facts(layer: LayerView) -> str:
    """Return cell, sizes, losses and dtype of a layer in a line."""
    dtype = str(layer.norms.dtype).removeprefix("torch.")
    own = units(layer)
    return (
        f"{layer.kind} cell, {steps(layer.T)}, {layer.B} "
        f"batch {'row' if layer.B == 1 else 'rows'}, {own} {'unit' if own == 1 else 'units'}, "
        f"{_losses(layer)}, {dtype}"
    )


def _losses(layer: LayerView) -> str:
    """Return how many losses there are; of a scalar, where its gradient enters."""
    count = layer.norms.shape[0]
    if layer.split != "step":
        return "1 loss" if count == 1 else f"{count} losses"
    count = int((layer.enters > 0).any(1).sum())
    return f"one loss, whose gradient enters at {steps(count)}"


def summary(flow: Mapping[str, LayerView], runs: Mapping[str, int]) -> str:
    """Return how many layers and steps there are."""
    count, several = len(flow), max(runs.values())
    which = (
        ""
        if several <= MANY
        else (f" Of up to {several} runs of a layer the one that reaches fewest steps is shown.")
    )
    spans = sorted({layer.T for layer in flow.values()})
    reach = steps(spans[0]) if len(spans) == 1 else f"{spans[0]} to {steps(spans[-1])}"
    return f"{count} recurrent {'layer' if count == 1 else 'layers'}, {reach}.{which}"
