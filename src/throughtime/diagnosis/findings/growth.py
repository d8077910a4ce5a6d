"""The gradient grows on its backward pass."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch

from ...cells import Elman
from ..evidence import Evidence
from ..finding import Finding
from ..look import Look, Seen
from .coverage import all_measured

__all__ = ["explodes"]


class Growth(NamedTuple):
    """How much the gradient grows at most.

    Attributes:
        factor: that much.
        lag: over so many steps.
        where: at which step and row.
        what: relative to what.
    """

    factor: float
    lag: int
    where: str
    what: str


def explodes(flow: Look, *, growth: float = 100.0) -> Iterator[Finding]:
    """Look for steps that get many times what entered after them (eq. 9).

    Args:
        flow: what is looked at.
        growth: what multiple counts as exploding.
    """
    for seen in flow.seen:
        if not seen.finite_back or not bool(seen.reached.any()):
            continue
        found = _of_all(seen)
        if not flow.feeds(seen.name):
            found = max(found, _of_each(seen), key=lambda one: one.factor)
        if found.factor >= growth:
            seen.known["explodes"] = True
            yield _finding(seen, found, growth)


def _of_all(seen: Seen) -> Growth:
    """Compare each step's norm with the sum of all that entered since.

    Where it is x times that, a single path grew by x or more, by the triangle inequality; a sum
    over many losses is no growth. The initial state is no step.
    """
    layer = seen.layer
    entering = layer.entering_norms.double()
    after = entering.flip(0).cumsum(0).flip(0)
    if int(seen.episode[-1].max()):
        ends = seen.last_of_episode(torch.ones_like(seen.steps))
        beyond = torch.cat((after, torch.zeros_like(after[:1]))).gather(0, ends)
        after = torch.maximum(after - beyond, entering)
    grown = torch.where(after > 0, layer.total_norms[1:].double() / after, 0)
    step, row = divmod(int(grown.argmax()), layer.B)
    lag = int(seen.last_entered[step, row]) - step - 1
    what = "largest gradient of a step, compared with all that entered since"
    return Growth(float(grown.max()), lag, f"step {step + 1}, row {row}", what)


def _of_each(seen: Seen) -> Growth:
    """Compare each loss's norms with what it leaves at its own step and one step back."""
    layer = seen.layer
    norms, enters = layer.norms[:, 1:], layer.enters
    if layer.one_loss or not all_measured(seen) or not norms.numel():
        return Growth(0.0, 0, "", "")
    at = (enters[:, None] - 1).clamp(min=0)
    own = torch.maximum(norms.gather(1, at), norms.gather(1, (at - 1).clamp(min=0)))[:, 0]
    grown = torch.where((enters > 0) & (own > 0), norms.amax(1) / own, 0)
    loss, row = divmod(int(grown.argmax()), layer.B)
    step = int(norms[loss, :, row].argmax()) + 1
    what = f"largest gradient of loss {int(layer.loss_index[loss])}, compared with its own step"
    lag = max(int(enters[loss, row]) - step, 0)
    return Growth(float(grown.max()), lag, f"step {step}, row {row}", what)


def _finding(seen: Seen, found: Growth, growth: float) -> Finding:
    rate = math.log(found.factor) / max(found.lag, 1)
    factor = found.factor
    times = f"{factor:,.0f}-fold" if factor < 1e9 else f"{factor:.1e}-fold"
    plain = isinstance(seen.cell, Elman)
    return Finding(
        "explodes",
        "warning",
        seen.name,
        f"The gradient of {seen.called} grows {times} over {found.lag} steps back, "
        f"{100 * math.expm1(rate):.0f} % a step: the first steps drown the last.",
        (
            Evidence(found.what, factor, growth, found.where, "eq. 9", True),
            Evidence(
                "change per step back (natural logarithm)",
                rate,
                None,
                f"{found.lag} steps",
                "eq. 9",
            ),
        ),
        "Clip the gradient's norm, and start from an orthogonal W_h, which stretches nothing."
        if plain
        else "Clip the gradient's norm; a smaller gain of W_h or a lower learning rate keeps it.",
        "orthogonal" if plain else "clip",
    )
