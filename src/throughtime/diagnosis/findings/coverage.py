"""What each step gets of the gradient, beside what the last ones get."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ...cells import GRU, LSTM, Elman
from ...flow import LayerView
from ...flow.nonfinite import all_finite
from ..gate_biases import already, kept_by_biases
from ..look import Seen

__all__ = [
    "Coverage",
    "EachStep",
    "all_measured",
    "as_default",
    "coverage",
    "each_step",
    "each_step_of",
    "remedy",
]


class Coverage(NamedTuple):
    """What the steps get, relative to the last ones; of the rows that are reached.

    Attributes:
        level: (T, B), what each step gets of all losses together, relative to the last steps.
        inside: (T, B) bool, the steps that a loss could reach.
        silent: (T, B) bool, those that get less than the fraction, and at which nothing enters.
    """

    level: Tensor
    inside: Tensor
    silent: Tensor


def coverage(seen: Seen, fraction: float) -> Coverage:
    """Return what the steps of each row get.

    It is measured where it moves the weights, at a_t: the step from the output to the state, which
    a nearly closed output gate makes small, is then no decay through time. Relative to the last
    steps, that is to those at which something enters that counts. Of several losses each counts by
    itself, relative to what it leaves one step back.

    Args:
        seen: the layer.
        fraction: what share still counts as arriving.
    """
    kept = seen.known.setdefault("coverage", {})
    if fraction not in kept:
        kept[fraction] = _measured(seen, fraction)
    return kept[fraction]


def _measured(seen: Seen, fraction: float) -> Coverage:
    layer = seen.layer
    entering = layer.entering_norms.double()
    step = torch.arange(1, layer.T + 1, device=seen.device)[:, None]
    inside = seen.steps & (step <= seen.last_entered)
    counts = seen.enters & (entering >= fraction * entering.amax(0))
    if layer.one_loss or not all_measured(seen):
        level = layer.preact_norms.double()
        standing = torch.where(counts, level, torch.nan)
        level = level / standing.nanmedian(0).values
    else:
        level = _best_of_losses(seen).double()
        counts = counts & (level > 0)
    # One step by itself may be small by chance: what counts is that its neighbours are, too.
    around = torch.nn.functional.max_pool1d(level.nan_to_num(0).T, 3, 1, 1).T
    return Coverage(level, inside, inside & ~counts & (around < fraction))


class EachStep(NamedTuple):
    """What each step of a typical row gets.

    Attributes:
        level: (T,), relative to the last steps; NaN where no loss can reach the step.
        silent: (T,) bool, the steps that get too little.
        steps: how many steps a loss could reach.
    """

    level: Tensor
    silent: Tensor
    steps: int

    @property
    def reached(self) -> int:
        """How many steps get enough."""
        return self.steps - int(self.silent.sum())


def each_step(layer: LayerView, fraction: float = 0.01) -> EachStep:
    """Return what each step gets in the row that a finding speaks of.

    It is the one with the median number of steps that get too little.

    Args:
        layer: a layer's flow.
        fraction: what share still counts as arriving.
    """
    return each_step_of(Seen(layer.name, layer, (), False), fraction)


def each_step_of(seen: Seen, fraction: float = 0.01) -> EachStep:
    """Return the same of a layer that is looked at already.

    Args:
        seen: the layer.
        fraction: what share still counts as arriving.
    """
    layer = seen.layer
    rows = seen.reached.nonzero().flatten()
    if not len(rows) or not seen.finite_back:
        nothing = torch.full((layer.T,), torch.nan, device=layer.norms.device)
        return EachStep(nothing, nothing.isfinite(), 0)
    cover = coverage(seen, fraction)
    few = cover.silent[:, rows].sum(0)
    row = int(rows[int(few.argsort()[len(few) // 2])])
    level = torch.where(cover.inside[:, row], cover.level[:, row], torch.nan)
    return EachStep(level, cover.silent[:, row], int(cover.inside[:, row].sum()))


def all_measured(seen: Seen) -> bool:
    """Check whether the norms of all losses are there, to the beginning."""
    layer = seen.layer
    return len(layer.loss_index) == layer.loss_count and all_finite(layer.norms[:, 1:])


def _best_of_losses(seen: Seen) -> Tensor:
    """Return the most that any single loss leaves at each step of what it leaves one step back."""
    layer = seen.layer
    norms, enters = layer.norms, layer.enters
    at = (enters - 1).clamp(min=0)
    stands = torch.maximum(norms.gather(1, at[:, None]), norms.gather(1, enters[:, None]) * 1e-3)
    there = (enters > 0)[:, None] & (stands > 0)
    return torch.where(there, norms / stands, 0).nan_to_num(0).amax(0)[1:]


def remedy(seen: Seen, needed: int) -> tuple[str, str | None]:
    """Return what to do where the gradient falls too fast, and the remedy's name.

    Args:
        seen: the layer.
        needed: over how many steps it has to reach, as far as is known.
    """
    if (kept := kept_by_biases(seen.cell)) >= needed / 2:
        return already(kept), None
    if isinstance(seen.cell, (LSTM, GRU)):
        return (
            "Where the task needs more, set the gate biases for its lag (chrono initialisation) "
            "before training.",
            "chrono",
        )
    if isinstance(seen.cell, Elman):
        return (
            "Where the task needs more, use a gated cell with gate biases for the lag, or an "
            "orthogonal W_h with identity or ReLU.",
            "gated-cell",
        )
    return ("Give the state a path from step to step that is close to the identity.", None)


def as_default(seen: Seen, *, large: float = 3.0) -> str | None:
    """Return "a default LSTM of this size" where the weights look as torch.nn draws them.

    Where the input is large, the layer does not reach as far as a default one does on other data.

    Args:
        seen: the layer.
        large: the root mean square of a feature from which on the input is large.
    """
    cell = seen.cell
    if not isinstance(cell, (LSTM, GRU, Elman)) or not seen.size < large:
        return None
    if isinstance(cell, Elman) and cell.nonlinearity not in ("tanh", "relu"):
        return None
    weights = cell.weights()
    bound = 1 / math.sqrt(cell.preact_size // cell.gates)
    for weight in weights.values():
        low, high = weight.detach().aminmax()
        largest = max(-low.item(), high.item())
        if largest > bound * (1 + 1e-5):
            return None
        if weight.numel() > 100 and largest < 0.9 * bound:
            return None
    kind = {LSTM: "LSTM", GRU: "GRU"}.get(type(cell), "RNN")
    return f"a default {kind} of this size"
