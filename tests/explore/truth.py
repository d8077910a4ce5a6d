"""What Python finds for a setting of the sliders: the package's own flow over the same weights."""

from __future__ import annotations

from functools import cache

import torch

import throughtime as tt
from throughtime.explore import Settings, layer
from throughtime.explore.network import drawn
from throughtime.explore.texts import readings, vocabulary
from throughtime.flow import LayerFlow


def numbers(stop: int) -> list[int]:
    """Give the words of a text by their number."""
    return [vocabulary().index(word) for word in readings()[stop].words]


@cache
def flow(settings: Settings) -> LayerFlow:
    """Give the flow of the losses that the page speaks of, one a word."""
    recurrent, words = layer(settings)
    with tt.trace(recurrent) as trace:
        output = recurrent(words[numbers(settings.stop)][:, None])[0]
        losses = (output[:, 0] * drawn().pull).sum(-1)
    return trace.flow(losses)["l0"]


def product_norm(found: LayerFlow, since: int, H: int = 32) -> float:
    """Give ‖∂h_T/∂s_k‖₂, of the dense product of Jacobians."""
    return float(torch.linalg.matrix_norm(found.jacobian_product(found.T, since)[0, :H], 2))
