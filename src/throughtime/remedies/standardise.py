"""The input standardised: a module in front of the layer, with the statistics of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ..errors import InputValueError, ShapeError
from .around import Around, map_data
from .base import Case, Change, Remedy, steps_read
from .places import Place

__all__ = ["STANDARDISE", "Standardised", "standardised"]

# Features whose root mean square lies above this drive gates of default weights into saturation.
LARGE = 3.0
# So many features' numbers are written out in the line to paste.
WRITTEN = 6


class Standardised(Around):
    """A layer that reads (x − mean) / scale, feature by feature; both are saved with the model.

    Buffers:
        mean, scale: (I,).
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, layer: nn.Module, mean: Tensor, scale: Tensor) -> None:
        """Take the layer and the statistics."""
        super().__init__(layer)
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)

    def forward(self, input: Tensor | PackedSequence, *args: Any, **named: Any) -> Any:
        """Run the layer over the standardised input; everything else is passed on."""
        return self.layer(map_data(self._read, input), *args, **named)

    def _read(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.scale


def standardised(
    layer: nn.Module,
    of: Tensor | None = None,
    *,
    mean: Tensor | Sequence[float] | None = None,
    scale: Tensor | Sequence[float] | None = None,
) -> Standardised:
    """Return a module that standardises what a layer reads: x ← (x − mean) / scale.

    Mean and standard deviation are taken once and kept as buffers, so that they are saved and
    loaded with the model. A feature that does not vary keeps a scale of 1.

    Args:
        layer: any module whose first argument has its features along the last axis.
        of: inputs to take the statistics of, (…, I).
        mean: (I,), instead of ``of``.
        scale: (I,), likewise; above 0.

    Raises:
        InputValueError: neither ``of`` nor both statistics, or what is not finite.
        ShapeError: statistics of different lengths.

    Example:
        >>> x = 30_000 + 500 * torch.randn(40, 8, 2)
        >>> layer = standardised(torch.nn.LSTM(2, 5), x)
        >>> layer(x)[0].shape, layer.hidden_size
        (torch.Size([40, 8, 5]), 5)
    """
    if of is not None:
        flat = of.detach().flatten(0, -2).double()
        middle, spread = flat.mean(0), flat.std(0, unbiased=False)
        # What is rounding of the mean is no spread.
        still = spread <= 1e-7 * middle.abs()
        spread = torch.where(still, 1.0, spread)
    elif mean is not None and scale is not None:
        middle = torch.as_tensor(mean, dtype=torch.float64)
        spread = torch.as_tensor(scale, dtype=torch.float64)
    else:
        raise InputValueError("give inputs to take the statistics of, or both mean= and scale=.")
    if middle.shape != spread.shape or middle.dim() != 1:
        raise ShapeError(
            "mean and scale must each be (I,), one number a feature; got "
            f"{tuple(middle.shape)} and {tuple(spread.shape)}."
        )
    if not bool(middle.isfinite().all()) or not bool((spread.isfinite() & (spread > 0)).all()):
        raise InputValueError(
            "mean and scale must be finite, and scale above 0; look for inf or NaN in the input."
        )
    like = next(iter(layer.parameters()))
    return Standardised(layer, middle.to(like), spread.to(like))


def _fits(case: Case, place: Place) -> bool:
    if not _takes_input(place):
        return False
    x = steps_read(case.layers(place)[0])
    if not x.numel() or not bool(x.isfinite().all()):
        return False
    return bool((x.pow(2).mean(0).sqrt() > LARGE).any())


def _takes_input(place: Place) -> bool:
    """Check whether the place is a layer over a sequence or a cell, which reads an input first."""
    return isinstance(place.module, (nn.RNNBase, nn.RNNCellBase)) or hasattr(place.module, "cell")


def _change(case: Case, place: Place) -> Change:
    around = standardised(place.module, steps_read(case.layers(place)[0]))
    at = place.expression
    if len(around.mean) <= WRITTEN:
        mean, scale = ([float(f"{v:.6g}") for v in s.tolist()] for s in (around.mean, around.scale))
        line = f"{at} = standardised({at}, mean={mean}, scale={scale})"
    else:
        line = f"{at} = standardised({at}, x)  # x: what this layer reads"
    return Change(line, around, ("standardised",))


STANDARDISE = Remedy(
    name="standardise",
    against=("input-scale", "saturated", "dead-units"),
    what="The input with mean 0 and standard deviation 1 in every feature.",
    formula="x ← (x − mean x) / std x, by feature, saved with the model",
    source="LeCun, Bottou, Orr and Müller (1998), Efficient backprop, section 4.3",
    gains="Gates that the input's size alone had closed or opened. Nothing where inputs are about "
    "1 already.",
    fits=_fits,
    change=_change,
)
