"""Steps far back get too little of the gradient.

How far one loss reaches is one thing, whether each step is reached by some loss another. A warning
is about the second alone, or about the lag that the user names.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ...flow.lags import beginning
from ...flow.nonfinite import all_finite
from ..evidence import Evidence
from ..finding import Finding
from ..look import Look, Seen
from .at_lag import at_lag
from .coverage import Coverage, as_default, coverage, remedy
from .horizon import falling
from .place_names import span

__all__ = ["vanishes"]


def vanishes(
    flow: Look, *, fraction: float = 0.01, most: float = 0.5, least: int = 15
) -> Iterator[Finding]:
    """Look for steps that get too little of the gradient (eq. 9, 5), in a typical row.

    Layers in which it explodes are left out: beside the first steps the last ones get little there.

    Args:
        flow: what is looked at.
        fraction: what share still counts as arriving.
        most: the share of the steps that must get less than ``fraction`` for a warning.
        least: and how many steps they must be. Below both it is a note: an untrained layer of
            ``torch.nn`` reaches 6 to 15 steps, and over 20 or so that may be all that is needed.
    """
    for seen in flow.seen:
        if seen.known.get("explodes") or not seen.finite_back or not bool(seen.reached.any()):
            continue
        found = (
            _uncovered(seen, fraction, most, least)
            if flow.lag is None
            else at_lag(seen, flow.lag, fraction)
        )
        if found is not None:
            yield found


def _uncovered(seen: Seen, fraction: float, most: float, least: int) -> Finding | None:
    cover = coverage(seen, fraction)
    rows = seen.reached
    silent = cover.silent[:, rows].sum(0)
    steps = cover.inside[:, rows].sum(0)
    typical = int(silent.argsort()[len(silent) // 2])
    row = int(rows.nonzero().flatten()[typical])
    many, of = int(silent[typical]), int(steps[typical])
    if many:
        severe = many >= max(least, most * of)
        return _silent(seen, cover, row, many, of, severe, fraction)
    return (
        falling(seen, cover, row, fraction)
        if seen.layer.one_loss
        else _far_from_each(seen, fraction)
    )


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
    default, gets = as_default(seen), "gets" if first == last else "get"
    what = (
        f"In {seen.called} {span(first, last)} of {of} {gets} less than {100 * fraction:g} % of "
        f"the gradient that the last steps get: it reaches {reached} step{'s' * (reached != 1)}"
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
        *remedy(seen, seen.layer.T),
    )


def _moved(seen: Seen, silent: Tensor) -> tuple[str, float]:
    """Return the weight that the silent steps move most, and their share ‖Σ G_k‖/‖dE/dW‖ (eq. 5).

    Of a loss at the last step that is what `LayerFlow.dropped` says of a window that ends there.
    """
    shares = {} if seen.cell is None else seen.layer.share_of(silent)
    if not shares:
        return "", 0.0
    name = max(shares, key=lambda n: -1.0 if math.isnan(shares[n]) else shares[n])
    return name, shares[name]


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
    if not all_finite(norms[:, 1:]):
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
        f"A single loss of {seen.called} reaches {lag} step{'s' * (lag != 1)} back; every step is "
        "reached by a loss nearer to it, so the weights learn from all of them, but not what takes "
        "longer.",
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
        *remedy(seen, seen.layer.T),
    )
