"""A layer that computes in another dtype than the model around it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ..errors import InputTypeError
from .around import Around, map_data
from .base import Case, Change, Remedy
from .places import Place

__all__ = ["DTYPE", "InDtype", "in_dtype"]

WIDER = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float32: torch.float64,
}


class InDtype(Around):
    """A layer in a dtype of its own: what goes in is cast to it, what comes out is cast back."""

    def __init__(self, layer: nn.Module, dtype: torch.dtype) -> None:
        """Take the layer, whose weights are cast."""
        super().__init__(layer.to(dtype))
        self.dtype = dtype

    def forward(self, input: Tensor | PackedSequence, *args: Any, **named: Any) -> Any:
        """Run the layer in its dtype."""
        data = input.data if isinstance(input, PackedSequence) else input
        inside = map_data(self._cast, input)
        found = self.layer(inside, *_each(self._cast, args), **_each(self._cast, named))
        return _each(lambda t: t.to(data.dtype) if t.is_floating_point() else t, found)

    def _cast(self, t: Tensor) -> Tensor:
        return t.to(self.dtype) if t.is_floating_point() else t


def in_dtype(layer: nn.Module, dtype: torch.dtype) -> InDtype:
    """Return a module that runs a layer in another dtype; its weights are cast.

    Inside the layer, states and gradients are then kept in that dtype over all steps; what goes
    into the layer and comes out has the dtype that it had.

    Args:
        layer: a recurrent layer.
        dtype: a floating-point one.

    Raises:
        InputTypeError: ``dtype`` is none.

    Example:
        >>> layer = in_dtype(torch.nn.RNN(3, 5), torch.float64)
        >>> layer(torch.zeros(7, 2, 3))[0].dtype, layer.weight_hh_l0.dtype
        (torch.float32, torch.float64)
    """
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise InputTypeError(f"dtype must be a floating-point torch.dtype; got {dtype!r}.")
    return InDtype(layer, dtype)


def _each(function: Any, value: Any) -> Any:
    """Return a value with every tensor in it put through a function."""
    if isinstance(value, PackedSequence):
        return map_data(function, value)
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, (tuple, list)):
        return type(value)(_each(function, v) for v in value)
    if isinstance(value, dict):
        return {k: _each(function, v) for k, v in value.items()}
    return value


def _fits(case: Case, place: Place) -> bool:
    """Check whether something is lost in this dtype: inf, NaN, or an exact 0 behind a loss."""
    layer = place.module
    if not isinstance(layer, nn.RNNBase) or next(iter(layer.parameters())).dtype not in WIDER:
        return False
    for flow in case.layers(place):
        profile = flow.lag_profile()
        if flow.first_nonfinite is not None or bool((profile == 0).any()):
            return True
    return False


def _change(case: Case, place: Place) -> Change:
    del case
    wider = WIDER[next(iter(place.module.parameters())).dtype]
    at = place.expression
    line = f"{at} = in_dtype({at}, {wider})"
    return Change(line, in_dtype(place.module, wider), ("in_dtype",))


DTYPE = Remedy(
    name="dtype",
    against=("underflow", "state-overflow", "gradient-overflow"),
    what="The layer in the next wider dtype.",
    formula="bfloat16, float16 → float32 → float64, inside the layer",
    source="IEEE 754: the smallest float32 above 0 is 1.4e-45, of float64 4.9e-324",
    gains="Numbers that are 0 or inf in this dtype alone. A gradient that vanishes goes on doing "
    "so.",
    fits=_fits,
    change=_change,
)
