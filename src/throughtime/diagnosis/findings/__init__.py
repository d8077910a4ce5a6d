"""What can be wrong, one file a finding or close family, and one row each, causes first."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from ..finding import Finding
from ..look import Look
from .cut import state_cut
from .data import before
from .dead import dead_units
from .decay import vanishes
from .graph import no_gradient, state_on_old_graph, unreached
from .growth import explodes
from .half import half_underflow
from .loss import loss_broken
from .numbers import gradient_broken, state_broken
from .padding import reads_padding
from .precision import underflow
from .reading import reads_one_step
from .rows import rows_without_gradient
from .saturation import input_scale, saturated
from .summed import loss_summed

__all__ = ["FINDINGS", "SEARCHES", "Kind"]


class Kind(NamedTuple):
    """A code, and what it may follow from.

    Attributes:
        code: as in `Finding.code`.
        what: in a few words.
        causes: codes that it follows from where they were found too: in the same layer, or,
            marked with ``*``, anywhere in the flow.
    """

    code: str
    what: str
    causes: tuple[str, ...] = ()


FORWARD = ("weight-nonfinite", "input-nonfinite", "initial-state-nonfinite", "state-overflow")
WIRING = (
    "rows-without-gradient*",
    "reverse-reads-one-step",
    "reads-one-step",
    "reads-padding*",
    "state-cut",
)
FLAT = ("input-scale", "dead-units", "saturated")

# In the order in which one may be the cause of another.
FINDINGS: dict[str, Kind] = {
    kind.code: kind
    for kind in (
        Kind("weight-nonfinite", "a parameter is inf or NaN before the run"),
        Kind("input-nonfinite", "the layer's own input is inf or NaN"),
        Kind("initial-state-nonfinite", "h_0 or c_0 is inf or NaN"),
        Kind("input-scale", "the input alone drives units or gates into saturation"),
        Kind("state-overflow", "the first bad number is in the states", ("input-scale",)),
        Kind(
            "loss-nonfinite",
            "a loss is inf or NaN",
            tuple(f"{code}*" for code in FORWARD),
        ),
        Kind("loss-gradient-nonfinite", "a finite loss sends inf or NaN", ("loss-nonfinite*",)),
        Kind("derivative-nonfinite", "a step's own derivative is inf or NaN"),
        Kind("gradient-overflow", "the first bad number is on the backward pass", ("input-scale",)),
        Kind("state-on-old-graph", "the initial state hangs on an earlier batch"),
        Kind("rows-without-gradient", "a few rows of the batch get all the gradient"),
        Kind("reverse-reads-one-step", "the reverse direction is read where it has seen one step"),
        Kind("reads-one-step", "the layer is read where it has seen one step"),
        Kind("reads-padding", "a loss reads the state after the row's end"),
        Kind("state-cut", "the state is detached inside one sequence"),
        Kind("dead-units", "units that are 0 at every step and row", ("input-scale",)),
        Kind("saturated", "units or gates stay saturated", ("input-scale",)),
        Kind("half-underflow", "half precision makes most of the gradient 0"),
        Kind(
            "no-gradient",
            "no loss reaches this layer",
            ("loss-nonfinite*", "half-underflow*", "dead-units*", "input-scale*", "saturated*"),
        ),
        Kind("parameter-unreached", "a parameter gets no gradient", ("no-gradient*",)),
        Kind("explodes", "some step gets over 100 times what the last ones get"),
        Kind("vanishes", "some step gets under 1 % of what the last ones get", (*WIRING, *FLAT)),
        Kind("horizon", "every step gets enough, longer sequences would not", (*WIRING, *FLAT)),
        Kind(
            "underflow",
            "exactly 0 in this dtype, not 0 in float64",
            (*WIRING, *FLAT, "half-underflow", "vanishes"),
        ),
        Kind("loss-summed", "a loss is a sum over time"),
    )
}

# What is run over a flow; each looks for one code, or for a few that exclude one another.
SEARCHES: tuple[Callable[[Look], Iterable[Finding]], ...] = (
    before,
    state_broken,
    loss_broken,
    gradient_broken,
    state_on_old_graph,
    rows_without_gradient,
    reads_one_step,
    reads_padding,
    state_cut,
    input_scale,
    dead_units,
    saturated,
    half_underflow,
    no_gradient,
    unreached,
    explodes,
    vanishes,
    underflow,
    loss_summed,
)
