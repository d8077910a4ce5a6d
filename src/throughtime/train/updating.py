"""One update of the weights, refused where the loss or the gradient is not finite."""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import NonFiniteError
from ..flow import Flow
from ..remedies import clip_gradient_

__all__ = ["began", "update"]


def update(
    parameters: Iterable[nn.Parameter], loss: Tensor, optimizer: Optimizer, clip: float | None
) -> float:
    """Go one step down the gradient of ``loss``, clipped to a norm.

    Args:
        parameters: of the model.
        loss: a scalar.
        optimizer: over the parameters.
        clip: the most that the gradient's norm may be; None for no clipping.

    Returns:
        The gradient's norm before clipping.

    Raises:
        NonFiniteError: the loss or the gradient is inf or NaN. The weights are as they were.
    """
    value = float(loss.detach())
    if not math.isfinite(value):
        raise NonFiniteError(f"the loss is {value}")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = clip_gradient_(parameters, clip or math.inf)
    if not math.isfinite(norm):
        raise NonFiniteError(f"the loss is {value:.4g}, but the norm of its gradient is {norm}")
    optimizer.step()
    return norm


def began(flow: Flow) -> str:
    """Describe where a pass through a model first turned inf or NaN (eq. 10).

    A forward one comes before every backward one; among backward ones the layer nearest to the
    loss, the last in the flow, comes first.

    Args:
        flow: of the pass that went wrong.
    """
    found = [(name, layer.first_nonfinite) for name, layer in flow.items()]
    bad = [(name, first) for name, first in found if first is not None]
    if not bad:
        return (
            "every state of the recurrent layers and every gradient that reaches one is finite, "
            "so it began in the readout, in the embedding, or where the weights' gradients are "
            "summed"
        )
    forward = [pair for pair in bad if pair[1].before_the_loss]
    name, first = forward[0] if forward else bad[-1]
    kind = "NaN" if first.kind == "nan" else first.kind
    return (
        f"it began {first.where}, in {name} at step {first.step}, batch row {first.row}, "
        f"unit {first.unit}: {kind}"
    )
