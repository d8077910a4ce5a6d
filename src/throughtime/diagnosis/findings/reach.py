"""How much of the gradient each step gets: whether the steps far back still get any, or too much.

How far one loss reaches is one thing, whether each step is reached by some loss another. A warning
is about the second alone, or about the lag that the user names.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ...cells import GRU, LSTM, Elman
from ...flow.lags import beginning
from ...flow.nonfinite import all_finite
from ..evidence import Evidence
from ..finding import Finding
from ..look import Look, Seen
from .places import span

__all__ = ["reach"]


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


def reach(
    flow: Look,
    *,
    fraction: float = 0.01,
    growth: float = 100.0,
    most: float = 0.5,
    least: int = 10,
) -> Iterator[Finding]:
    """Look for steps that get too little or too much of the gradient (eq. 9, 5).

    What a step gets is measured where it moves the weights, at a_t: the step from the output to the
    state, which a nearly closed output gate makes small, is then no decay through time. Relative
    to the last steps, that is to those at which the losses enter.

    Args:
        flow: what is looked at.
        fraction: what share still counts as arriving.
        growth: what multiple of all that entered counts as exploding.
        most: the share of the steps that must get less than ``fraction`` for a warning.
        least: and how many steps they must be. Below both it is a note: an untrained layer of
            ``torch.nn`` reaches 6 to 15 steps, and over a dozen that may be all that is needed.
    """
    for seen in flow.seen:
        if not seen.finite or not bool(seen.reached.any()):
            continue
        exploding = _explodes(seen, growth)
        if exploding is not None:
            yield exploding
            continue
        found = _vanishes(seen, flow.lag, fraction, most, least)
        if found is not None:
            yield found


def _explodes(seen: Seen, growth: float) -> Finding | None:
    """Compare each step's norm with the sum of all that entered since.

    Where it is x times that, a single path grew by x or more, by the triangle inequality; a sum
    over many losses does not count as growth. The initial state is no step.
    """
    layer = seen.layer
    entering = layer.entering_norms.double()
    after = entering.flip(0).cumsum(0).flip(0)
    if int(seen.episode[-1].max()):
        ends = seen.last_of_episode(torch.ones_like(seen.steps))
        beyond = torch.cat((after, torch.zeros_like(after[:1]))).gather(0, ends)
        after = torch.maximum(after - beyond, entering)
    grown = torch.where(after > 0, layer.total_norms[1:].double() / after, 0)
    top = float(grown.max())
    if top < growth:
        return None
    step, row = divmod(int(grown.argmax()), layer.B)
    last = int(seen.last_of_episode(seen.enters)[step, row])
    lag = last - step - 1
    rate = math.log(top) / max(lag, 1)
    clip = not isinstance(seen.cell, Elman)
    return Finding(
        "explodes",
        "warning",
        seen.name,
        f"The gradient of {seen.name} grows {_times(top)} over {lag} steps back, "
        f"{100 * math.expm1(rate):.0f} % a step: the first steps drown the last.",
        (
            Evidence(
                "norm dE/ds_k over the sum of all that entered since",
                top,
                growth,
                f"step {step + 1}, row {row}",
                "eq. 9",
                True,
            ),
            Evidence("rate of the norm, nats a step", rate, None, f"{lag} steps", "eq. 9"),
        ),
        "Clip the gradient's norm, and start from an orthogonal W_h, which stretches nothing."
        if not clip
        else "Clip the gradient's norm; a smaller gain of W_h or a lower learning rate keeps it.",
        "clip" if clip else "orthogonal",
    )


def _times(factor: float) -> str:
    return f"{factor:,.0f}-fold" if factor < 1e6 else f"{factor:.0e}-fold"


def _vanishes(
    seen: Seen, lag: int | None, fraction: float, most: float, least: int
) -> Finding | None:
    if lag is not None:
        return _at_lag(seen, lag, fraction)
    cover = _coverage(seen, fraction)
    rows = seen.reached
    silent = cover.silent[:, rows].sum(0)
    steps = cover.inside[:, rows].sum(0)
    typical = int(silent.argsort()[len(silent) // 2])
    row = int(rows.nonzero().flatten()[typical])
    many, of = int(silent[typical]), int(steps[typical])
    if many:
        severe = many >= max(least, most * of)
        return _silent(seen, cover, row, many, of, severe, fraction)
    return None if seen.layer.one_loss else _far_from_each(seen, fraction)


def _coverage(seen: Seen, fraction: float) -> Coverage:
    layer = seen.layer
    entering = layer.entering_norms.double()
    step = torch.arange(1, layer.T + 1, device=seen.device)[:, None]
    inside = seen.steps & (step <= seen.last_of_episode(seen.enters))
    counts = seen.enters & (entering >= fraction * entering.amax(0))
    if layer.one_loss or not _all_measured(seen):
        level = layer.preact_norms.double()
        standing = torch.where(counts, level, torch.nan)
        level = level / standing.nanmedian(0).values
    else:
        level = _best_of_losses(seen).double()
        counts = counts & (level > 0)
    # One step by itself may be small by chance: what counts is that its neighbours are, too.
    around = torch.nn.functional.max_pool1d(level.nan_to_num(0).T, 3, 1, 1).T
    return Coverage(level, inside, inside & ~counts & (around < fraction))


def _all_measured(seen: Seen) -> bool:
    """Check whether the norms of all losses are there, to the beginning."""
    layer = seen.layer
    return len(layer.loss_index) == layer.loss_count and all_finite(layer.norms)


def _best_of_losses(seen: Seen) -> Tensor:
    """Return the most that any single loss leaves at each step of what it leaves one step back."""
    layer = seen.layer
    norms, enters = layer.norms, layer.enters
    at = (enters - 1).clamp(min=0)
    stands = torch.maximum(norms.gather(1, at[:, None]), norms.gather(1, enters[:, None]) * 1e-3)
    there = (enters > 0)[:, None] & (stands > 0)
    return torch.where(there, norms / stands, 0).nan_to_num(0).amax(0)[1:]


def _silent(
    seen: Seen,
    cover: Coverage,
    row: int,
    many: int,
    of: int,
    severe: bool,
    fraction: float,
    *,
    little: float = 0.05,
) -> Finding:
    """Return the finding on a typical row of which ``many`` of ``of`` steps get too little.

    It is no warning where those steps move some weight after all, by large inputs or by their
    number: ``little`` is the share of its gradient from which on they do.
    """
    where = cover.silent[:, row].nonzero().flatten() + 1
    first, last = int(where[0]), int(where[-1])
    reached = of - many
    least = float(cover.level[where - 1, row].min())
    name, moved = _moved(seen, cover.silent) if severe else ("", 0.0)
    severe = severe and not moved >= little
    evidence = [
        Evidence(
            "steps that get less than 1 % of what the last steps get"
            if fraction == 0.01
            else f"steps that get less than {fraction:g} of what the last steps get",
            float(many),
            0.0,
            f"{many} of {of} steps, row {row}",
            "eq. 9",
            True,
        ),
        Evidence("least that a step gets", least, fraction, span(first, last), "eq. 9"),
    ]
    if name:
        what = f"share of dE/d{name} that these steps give"
        evidence.append(Evidence(what, moved, little, span(first, last), "eq. 5"))
    default = _as_default(seen)
    what = (
        f"In {seen.name} {span(first, last)} of {of} get less than {100 * fraction:g} % of the "
        f"gradient that the last steps get: it reaches {reached} steps"
        + (f", as that of {default} does." if default else ".")
    )
    if not severe:
        what += " Is that enough for your task? Say so by lag=."
    return Finding(
        "vanishes",
        "warning" if severe else "note",
        seen.name,
        what,
        tuple(evidence),
        *_remedy(seen),
    )


def _moved(seen: Seen, silent: Tensor) -> tuple[str, float]:
    """Return the weight that the silent steps move most, and their share ‖Σ G_k‖/‖dE/dW‖ (eq. 5).

    Of a loss at the last step that is what `LayerFlow.dropped` says of a window that ends there.
    """
    if seen.cell is None:
        return "", 0.0
    shares = seen.layer.share_of(silent)
    name = max(shares, key=lambda n: -1.0 if math.isnan(shares[n]) else shares[n])
    return name, shares[name]


def _remedy(seen: Seen) -> tuple[str, str | None]:
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
            "orthogonal",
        )
    return ("Give the state a path from step to step that is close to the identity.", None)


def _as_default(seen: Seen) -> str | None:
    """Return "a default LSTM of this size" where the weights look as torch.nn draws them."""
    cell = seen.cell
    if not isinstance(cell, (LSTM, GRU, Elman)):
        return None
    if isinstance(cell, Elman) and cell.nonlinearity not in ("tanh", "relu"):
        return None
    weights = cell.weights()
    bound = 1 / math.sqrt(cell.preact_size // cell.gates)
    for weight in weights.values():
        largest = float(weight.abs().max())
        if largest > bound * (1 + 1e-5):
            return None
        if weight.numel() > 100 and largest < 0.9 * bound:
            return None
    kind = {LSTM: "LSTM", GRU: "GRU"}.get(type(cell), "RNN")
    return f"a default {kind} of this size"


def _at_lag(seen: Seen, lag: int, fraction: float) -> Finding | None:
    """Compare what arrives ``lag`` steps back with what arrives one step back."""
    layer = seen.layer
    if layer.one_loss:
        share, how_many = _one_at_lag(seen, lag)
    else:
        share, how_many = _each_at_lag(seen, lag)
    if how_many == 0:
        return Finding(
            "vanishes",
            "note",
            seen.name,
            f"No loss of {seen.name} has {lag} measured steps behind it: these sequences, or the "
            "window, are too short to tell whether it reaches that far.",
            (Evidence("steps", float(layer.T), float(lag), "the longest row", "eq. 9", True),),
            "Examine it on sequences at least as long as the lag.",
        )
    if share >= fraction:
        return None
    return Finding(
        "vanishes",
        "warning",
        seen.name,
        f"In {seen.name} {share:.1g} of the gradient arrives {lag} steps back, the lag that the "
        f"task needs; less than {100 * fraction:g} % is too little.",
        (Evidence("share that arrives at the lag", share, fraction, f"lag {lag}", "eq. 9", True),),
        *_remedy(seen),
    )


def _one_at_lag(seen: Seen, lag: int) -> tuple[float, int]:
    layer = seen.layer
    cover = _coverage(seen, 0.01)
    step = torch.arange(1, layer.T + 1, device=seen.device)[:, None]
    last = (step * seen.enters).amax(0)
    rows = seen.reached & (last > lag)
    if not bool(rows.any()):
        return 0.0, 0
    at = cover.level.gather(0, (last - lag - 1).clamp(min=0)[None])[0]
    return float(at[rows].median()), int(rows.sum())


def _each_at_lag(seen: Seen, lag: int) -> tuple[float, int]:
    layer = seen.layer
    norms, enters = layer.norms, layer.enters
    begins = torch.cat((torch.zeros_like(seen.episode[:1]), seen.episode))
    k = (enters - lag).clamp(min=0)
    same = begins.gather(0, enters) == begins.gather(0, k)
    there = (enters > lag) & same
    stands = norms.gather(1, (enters - 1).clamp(min=0)[:, None])[:, 0]
    there &= stands > 0
    if not bool(there.any()):
        return 0.0, 0
    shares = (norms.gather(1, k[:, None])[:, 0] / stands)[there]
    shares = shares[~shares.isnan()]  # beyond a window nothing was measured
    return (float(shares.median()), len(shares)) if len(shares) else (0.0, 0)


def _far_from_each(seen: Seen, fraction: float, *, looked_at: int = 16) -> Finding | None:
    """Return a note where every step is reached, but single losses do not reach far.

    Args:
        seen: the layer.
        fraction: what share still counts as arriving.
        looked_at: how many losses are followed; the norms of all may be millions.
    """
    layer = seen.layer
    chosen = torch.linspace(0, len(layer.norms) - 1, looked_at, device=seen.device).long().unique()
    norms, enters = layer.norms[chosen], layer.enters[chosen]
    if not all_finite(norms):
        return None
    behind = enters - beginning(layer.tape).gather(0, enters)
    stands = norms.gather(1, (enters - 1).clamp(min=0)[:, None])
    k = torch.arange(layer.T + 1, device=seen.device)[None, :, None]
    arrives = (norms >= fraction * stands) & (k < enters[:, None]) & (stands > 0)
    farthest = torch.where(arrives, enters[:, None] - k, 0).amax(1)
    # Losses with fewer steps behind them than that cannot tell.
    full = (behind > 1) & (farthest < behind - 1) & (stands[:, 0] > 0)
    if not bool(full.any()) or int(full.sum()) * 2 < int((behind > 1).sum()):
        return None
    lag = int(farthest[full].median())
    return Finding(
        "vanishes",
        "note",
        seen.name,
        f"A single loss of {seen.name} reaches {lag} steps back; every step is reached by a loss "
        "nearer to it, so the weights learn from all of them, but not what takes longer.",
        (
            Evidence(
                "steps back with at least 1 % of a single loss"
                if fraction == 0.01
                else f"steps back with at least {fraction:g} of a single loss",
                float(lag),
                float(layer.T - 1),
                f"the median of {int(full.sum())} losses and rows",
                "eq. 9",
                True,
            ),
        ),
        *_remedy(seen),
    )
