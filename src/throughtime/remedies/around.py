"""A module around a layer, which passes everything on but what goes in and comes out."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

__all__ = ["Around", "map_data"]


class Around(nn.Module):
    """A layer with something before or behind it; whatever else is asked for is the layer's.

    Attributes:
        layer: the recurrent module.
    """

    def __init__(self, layer: nn.Module) -> None:
        """Take the layer."""
        super().__init__()
        self.layer = layer

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of its own, or the layer's."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            layer = self.__dict__.get("_modules", {}).get("layer")
            if layer is None or name.startswith("__"):
                raise
            return getattr(layer, name)


def map_data(function: Any, input: Tensor | PackedSequence) -> Any:
    """Return what a function makes of an input's numbers, packed where the input is.

    Args:
        function: of a tensor whose last axis holds the features.
        input: a tensor, or packed.
    """
    if isinstance(input, PackedSequence):
        return input._replace(data=function(input.data))
    return function(input)
