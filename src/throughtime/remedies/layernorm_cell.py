"""A layer-normalised LSTM instead of a plain one."""

from __future__ import annotations

from torch import nn

from ..cells import LayerNormLSTM
from ..diagnosis.paste import CALLS
from ..errors import InputTypeError
from ..layers import LSTM
from .base import Case, Change, Remedy, plain_weights
from .cell_stack import Stacked, cells_over, stackable
from .places import Place

__all__ = ["LAYERNORM", "layer_normed"]

KINDS = (nn.LSTM, LSTM)


def layer_normed(layer: nn.Module) -> Stacked:
    """Return layer-normalised LSTM layers over the same W_x, W_h and biases.

    Args:
        layer: an `nn.LSTM` or `tt.LSTM` of one direction without a projection.

    Raises:
        InputTypeError: it is none.

    Source:
        Ba, Kiros and Hinton (2016), "Layer normalization".

    Example:
        >>> layer = layer_normed(torch.nn.LSTM(3, 5))
        >>> output, (h_n, c_n) = layer(torch.zeros(7, 2, 3))
        >>> output.shape, c_n.shape
        (torch.Size([7, 2, 5]), torch.Size([1, 2, 5]))
    """
    if not stackable(layer, KINDS) or not isinstance(layer, (nn.LSTM, LSTM)):
        raise InputTypeError(
            "layer_normed takes an nn.LSTM or tt.LSTM of one direction without projection and "
            f"dropout; got {type(layer).__name__}."
        )
    return Stacked(cells_over(layer, LayerNormLSTM), layer.batch_first, parts=2)


def _fits(case: Case, place: Place) -> bool:
    del case
    return stackable(place.module, KINDS) and plain_weights(place.module)


def _change(case: Case, place: Place) -> Change:
    made = layer_normed(place.module)
    return Change(LAYERNORM.line(place.expression, case.lag), made, ("layer_normed",))


LAYERNORM = Remedy(
    name="layernorm-cell",
    against=("saturated", "input-scale", "explodes"),
    what="An LSTM whose pre-activations are normalised: their size cannot saturate the gates.",
    formula="a = γ_x N(W_x x) + γ_h N(W_h h) + b, h_t = o ⊙ tanh(γ_c N(c_t) + b_c)",
    source="Ba, Kiros and Hinton (2016), Layer normalization",
    gains="Gates that stay open whatever the weights' scale. It lengthens no reach by itself, and "
    "each step costs more.",
    fits=_fits,
    change=_change,
    call=CALLS["layernorm-cell"],
    replaces=True,
)
