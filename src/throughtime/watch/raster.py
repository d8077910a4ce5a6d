"""The map over lag and training step as an image, for loggers that take no figures."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .history import History

__all__ = ["BRIGHT", "DARK", "SCALE", "grid", "raster"]

# What is drawn, in powers of ten of what lag 0 gets; beyond it the colour stays.
DARK, BRIGHT = -4.0, 1.0
# From dark to bright, evenly spaced; in between it is mixed.
SCALE = ("#440154", "#3B528B", "#21918C", "#5EC962", "#FDE725")
# No gradient at all, or none that was measured.
NOTHING = (160, 160, 160)
# So many lags and records at most, and so many pixels at least on each side.
MOST, LEAST = 256, 192


def grid(history: History, layer: str) -> tuple[list[int], NDArray[np.float64]]:
    """Return the steps, and log₁₀ of the gradient at each lag (rows) and step (columns).

    NaN stands where nothing arrives, or where it was not measured.

    Args:
        history: what was measured.
        layer: the layer's name.
    """
    there = [record for record in history if layer in record.profile]
    there = [there[n] for n in _spread(len(there))]
    lags = max((len(record.profile[layer]) for record in there), default=0)
    values = np.full((lags, len(there)), math.nan)
    for column, record in enumerate(there):
        profile = np.asarray(record.profile[layer], dtype=np.float64)
        known = np.isfinite(profile) & (profile > 0)
        values[: len(profile), column][known] = np.log10(profile[known])
    return [record.step for record in there], values


def raster(history: History, layer: str) -> NDArray[np.uint8]:
    """Return the map as an image, (height, width, 3): lag 0 at the bottom, time to the right.

    Args:
        history: what was measured.
        layer: the layer's name.
    """
    _, values = grid(history, layer)
    if not values.size:
        return np.full((LEAST, LEAST, 3), NOTHING, dtype=np.uint8)
    values = values[_spread(len(values))][::-1]
    share = np.clip((values - DARK) / (BRIGHT - DARK), 0, 1)
    anchors = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in SCALE])
    at = np.linspace(0, 1, len(anchors))
    known = ~np.isnan(share)
    image = np.empty((*values.shape, 3), dtype=np.uint8)
    image[:] = NOTHING
    for channel in range(3):
        mixed = np.interp(share[known], at, anchors[:, channel])
        image[..., channel][known] = mixed.round().astype(np.uint8)
    for axis in (0, 1):
        image = image.repeat(math.ceil(LEAST / image.shape[axis]), axis=axis)
    return image


def _spread(count: int) -> list[int]:
    """Return at most so many of the first ``count`` numbers, evenly spread, ends included."""
    if count <= MOST:
        return list(range(count))
    return [round(n * (count - 1) / (MOST - 1)) for n in range(MOST)]
