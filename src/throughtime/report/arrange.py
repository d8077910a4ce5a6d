"""What a flow measured, put in the order that the figures draw: by lag, and by pair (t, k)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch

from ..flow import LayerView
from ..flow.jacobians import singular_values
from ..flow.lags import beginning

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = [
    "ByLag",
    "Pairs",
    "affordable",
    "array",
    "by_pair",
    "norms_by_lag",
    "one_thread",
    "quantiles",
    "spectrum",
    "thin",
]

LOSSES = 256  # so many losses are enough for a spread
WORK = 4e9  # S³ summed over the decompositions that one figure may ask for
STEPS = 400  # a map finer than this cannot be told apart on a screen


class ByLag(NamedTuple):
    """Norms by lag, each relative to the same loss and row at lag 0.

    All are 1-D over lag 0…L: the 10 %, 50 % and 90 % quantiles (NaN: no such pair), the shares of
    pairs that are exactly 0 and that are not finite, and how many pairs there are.
    """

    low: NDArray[Any]
    middle: NDArray[Any]
    high: NDArray[Any]
    zero: NDArray[Any]
    broken: NDArray[Any]
    pairs: NDArray[Any]
    losses: int
    losses_in_all: int


class Pairs(NamedTuple):
    """The map of pairs: median norm over rows, at [t, k].

    Attributes:
        t: steps where a loss enters, one a line of the map.
        k: steps that it reaches.
        norm: (t, k); NaN where there is no pair or nothing was measured.
        zero: (t, k) bool: exactly 0 although k ≤ t.
        broken: (t, k) bool: inf, or NaN that followed from it.
        every: 1, or n where only each n-th step is kept.
    """

    t: NDArray[Any]
    k: NDArray[Any]
    norm: NDArray[Any]
    zero: NDArray[Any]
    broken: NDArray[Any]
    every: int


def array(tensor: Tensor) -> NDArray[Any]:
    """Return a tensor as a float64 array on the CPU."""
    return tensor.detach().double().cpu().numpy()


def thin(count: int, most: int) -> NDArray[Any]:
    """Return at most so many indices below ``count``, evenly spread, first and last included."""
    if count <= most:
        return np.arange(count)
    return np.unique(np.linspace(0, count - 1, most).round().astype(int))


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread inside: small decompositions wait for a second one longer.

    256 × 256 on two busy cores: 9 ms with one thread, 340 ms with two.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


_SPECTRA: WeakKeyDictionary[LayerView, dict[tuple[int, int], NDArray[Any]]] = WeakKeyDictionary()


def spectrum(layer: LayerView, step: int, row: int) -> NDArray[Any]:
    """Return the singular values of J_step of one batch row, largest first (eq. 4).

    Kept, because two figures ask for the same ones; one row, because each is a decomposition.
    """
    kept = _SPECTRA.setdefault(layer, {})
    if (step, row) not in kept:
        with one_thread():
            kept[step, row] = array(singular_values(layer.jacobian(step, rows=[row])))[0]
    return kept[step, row]


def sample_rows(B: int, most: int = 8) -> list[int]:
    """Return at most so many of the batch's rows, drawn with seed 0: a report's cost, not B's."""
    if most >= B:
        return list(range(B))
    return sorted(np.random.default_rng(0).choice(B, most, replace=False).tolist())


def affordable(layer: LayerView) -> int:
    """Return how many steps' singular values may be asked for: seconds, not minutes."""
    return max(int(WORK / layer.S**3), 8)


def quantiles(values: NDArray[Any], *fractions: float) -> list[NDArray[Any]]:
    """Return quantiles along axis 0 that are values themselves, NaN left out; NaN where none is.

    Not interpolated: the mean of 10⁻⁹ and 1 would say nothing about either.
    """
    ordered = np.sort(values, axis=0)
    count = (~np.isnan(values)).sum(0)
    places = [np.floor(f * np.maximum(count - 1, 0)).astype(int)[None] for f in fractions]
    return [np.take_along_axis(ordered, place, 0)[0] for place in places]


def _lines(layer: LayerView, chosen: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    """Return one line a (loss, row) that has a gradient.

    Its norms (n, T+1), the step where it enters (n,), and the earliest step that has a way there,
    after the last reset (n,). inf and the NaN that comes of it (0·inf, inf − inf) are both given
    as inf; NaN is left where nothing was measured.
    """
    enters = layer.enters.cpu().numpy()[chosen]
    loss, row = np.nonzero(enters > 0)
    at = enters[loss, row]
    norms = array(layer.norms[chosen.tolist()])[loss, :, row]
    start = beginning(layer.tape).cpu().numpy()[at, row]
    if not len(at):
        return norms.reshape(0, layer.T + 1), at, start
    began = np.isinf(norms)
    index = np.arange(len(at))
    began[index, at] |= np.isnan(norms[index, at])
    since = np.logical_or.accumulate(began[:, ::-1], axis=1)[:, ::-1]
    return np.where(np.isnan(norms) & since, np.inf, norms), at, start


def norms_by_lag(layer: LayerView) -> ByLag:
    """Return the norms ‖∂E_t/∂s_k‖ of a layer by lag t − k, relative to lag 0 (eq. 7).

    Cost:
        T sorts of V·B values, V at most 256.
    """
    V = layer.norms.shape[0]
    chosen = thin(V, LOSSES)
    norms, at, start = _lines(layer, chosen)
    longest = int(at.max()) if len(at) else 0
    out = np.full((6, longest + 1), np.nan)
    base = norms[np.arange(len(at)), at]
    for lag in range(longest + 1):
        has = at - lag >= start
        here, unit = norms[has, at[has] - lag], base[has]
        measured = ~np.isnan(here)
        here, unit = here[measured], unit[measured]
        broken = ~np.isfinite(here) | ~np.isfinite(unit)
        with np.errstate(divide="ignore", invalid="ignore"):
            relative = np.where(broken, np.inf, here / unit)
        out[5, lag] = n = len(here)
        if n:
            low, below = (q[0] for q in quantiles(relative[:, None], 0.1, 0.5))
            high, above = (-q[0] for q in quantiles(-relative[:, None], 0.1, 0.5))
            # The median is that of `LayerFlow.lag_profile`: the mean of two middle values.
            out[:3, lag] = low, below if below == above else below / 2 + above / 2, high
            out[3, lag] = ((here == 0) & (unit > 0)).mean()
            out[4, lag] = broken.mean()
    return ByLag(*out, losses=len(chosen), losses_in_all=V)


def by_pair(layer: LayerView, most: int = STEPS) -> Pairs:
    """Return the norms ‖∂E_t/∂s_k‖ of a layer as a map over (t, k), the median over rows (eq. 3).

    Losses that enter at the same step are taken together. Above ``most`` steps each n-th is kept.
    """
    T = layer.T
    every = -(-T // most)
    k = np.arange(T % every, T + 1, every)  # T, and so the last loss, is always among them
    enters = layer.enters.cpu().numpy()
    kept = np.isin(enters, k) & (enters > 0)
    if not kept.any():  # no loss happens to enter at such a step
        kept = enters > 0
    norms, at, start = _lines(layer, np.nonzero(kept.any(1))[0])
    t = np.unique(enters[kept])
    shape = (len(t), len(k))
    norm, zero, broken = np.full(shape, np.nan), np.zeros(shape, bool), np.zeros(shape, bool)
    for i, step in enumerate(t):
        here = at == step
        there = (k >= start[here, None]) & (k <= step)
        (norm[i],) = quantiles(np.where(there, norms[here][:, k], np.nan), 0.5)
        zero[i], broken[i] = norm[i] == 0, np.isinf(norm[i])
    norm[zero | broken] = np.nan
    return Pairs(t, k, norm, zero, broken, every)
