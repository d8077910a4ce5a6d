"""A layer's call on a segment of which the last steps come again: in two parts."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import UnsupportedError

__all__ = ["Tail", "without_overlap"]


class Tail(NamedTuple):
    """What a layer is still to be called on, after a segment's own steps.

    Attributes:
        input: the steps that come again.
        axis: of the time in it.
        more: what else the layer is called with, for these steps.
    """

    input: Tensor
    axis: int
    more: dict[str, Any]

    def after(self, layer: nn.Module, output: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Return what the layer puts out over all steps, and its state after the last."""
        rest, final = layer.forward(self.input, state, **self.more)
        return torch.cat((output, rest), self.axis), final


def without_overlap(
    layer_title: str, layer: Any, own: int, length: int, args: tuple, kwargs: dict[str, Any]
) -> tuple[tuple, dict[str, Any], Tail]:
    """Return a layer's call on a segment's own steps, and what is left to do after it.

    Args:
        layer_title: what a message calls the layer.
        layer: the layer.
        own: how many steps are the segment's own.
        length: how many it has.
        args: the input, if it was given by position.
        kwargs: what else the layer is called with.

    Raises:
        UnsupportedError: the layer does not take every step of the segment, or rows of different
            lengths.
    """
    input = args[0] if args else kwargs.get("input")
    ragged = next((n for n in ("lengths", "mask") if kwargs.get(n) is not None), None)
    axis = 1 if isinstance(input, Tensor) and layer.batch_first and input.dim() == 3 else 0
    got = f"{input.shape[axis]} steps" if isinstance(input, Tensor) else type(input).__name__
    if ragged or not isinstance(input, Tensor) or input.shape[axis] != length:
        raise UnsupportedError(
            f"with overlap= every layer must take each step of a segment, of {length} steps and in "
            f"all rows; {layer_title} got {f'{ragged}=' if ragged else got}. Carry hx by hand: "
            "tt.segments(source, window)."
        )
    parts = [int(own), length - own]
    head, tail = input.split(parts, axis)
    others = {n: value for n, value in kwargs.items() if n not in ("input", "hx", "reset")}
    resets = ({}, {})
    if kwargs.get("reset") is not None:
        first, last = kwargs["reset"].split(parts)
        resets = ({"reset": first}, {"reset": last})
    given = {**others, "hx": kwargs.get("hx"), **resets[0]}
    left = Tail(tail, axis, {**others, **resets[1]})
    return ((head,), given, left) if args else ((), {**given, "input": head}, left)
