"""Each batch row's own share of the weight gradients, from one backward sweep."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from ..cells import AbstractCell, Function
from ..errors import UnsupportedError
from ..tape import Gradients, Tape, complete, taken
from .chosen import Choice
from .engine import Demand, Engine, Losses, Outputs

__all__ = [
    "CALLS",
    "COLLECTORS",
    "TAKEN",
    "ByRow",
    "Collector",
    "around",
    "of_call",
    "on_behalf_of",
    "param_grads_by_row",
]


@dataclass(frozen=True, eq=False)
class Collector:
    """A request for the rows' shares of some weights while a backward pass runs.

    Attributes:
        weights: the weights whose shares are wanted.
        take: called with a weight and the share of each row.
        begin: called with the weights of each run that a request for one call has met.
        wanted: returns whether a request for one call still stands when the backward pass comes.
    """

    weights: tuple[Tensor, ...]
    take: Callable[[Tensor, Tensor], None]
    begin: Callable[[list[Tensor]], None] = lambda _: None
    wanted: Callable[[], bool] = lambda: True

    def serves(self, weight: Tensor) -> bool:
        """Check whether a weight's shares are asked for."""
        return any(w is weight for w in self.weights)


# For all threads, since autograd runs backward in its own. Where several want a weight's shares,
# the last one gets them.
COLLECTORS: list[Collector] = []
# Requests for the layers' calls that are under way: whatever runs then is remembered, and its
# backward pass, whenever it comes, collects.
CALLS: list[Collector] = []
# The attribute of a parameter whose shares another library is given with every call.
TAKEN = "_shares_taken"


NO_SHARE = "has no gradient of a row by itself"


class ByRow(Engine):
    """An engine whose backward passes also collect the rows' shares."""

    def __init__(self, engine: Engine) -> None:
        """Take the engine that does the work."""
        self.engine, self.name = engine, engine.name

    def obstacle(self, cell: AbstractCell, demand: Demand) -> str:
        """Return the engine's own answer."""
        return self.engine.obstacle(cell, demand)

    def chosen(self, cell: AbstractCell) -> Choice:
        """Return the engine's own answer."""
        return self.engine.chosen(cell)

    def outputs(self, *args, **named) -> Outputs:
        """Run the engine forward."""
        return self.engine.outputs(*args, **named)

    def forward(self, *args, **named) -> Tape:
        """Run the engine forward."""
        return self.engine.forward(*args, **named)

    def backward(self, *args, **named) -> tuple[Tensor, Tensor]:
        """Run the engine backward."""
        return self.engine.backward(*args, **named)

    def losses(self, *args, **named) -> Losses:
        """Run the engine backward."""
        return self.engine.losses(*args, **named)

    def gradients(
        self,
        cell: AbstractCell,
        tape: Tape,
        g: Tensor | None,
        delta_T: Tensor | None = None,
        *,
        wants: frozenset[str] | None = None,
        want_x: bool = True,
    ) -> Gradients:
        """Send one loss back, return what is wanted, and pass on the rows' shares (eq. 5, 9).

        Args:
            cell: the recurrence.
            tape: what its forward sweep kept.
            g: direct gradients (T, B, G) into the first G ≤ S entries of s_1…s_T; None: nowhere.
            delta_T: what else arrives at s_T, (B, S).
            wants: the weights whose gradients are wanted; None: all.
            want_x: whether dE/dx is wanted.

        Cost:
            a backward sweep and a batched GEMM per weight; memory B times that of the weights.

        Raises:
            UnsupportedError: the rows of a step depend on each other.
        """
        weights = cell.weights()
        names = [name for name in weights if wants is None or name in wants]
        with torch.no_grad():
            g = tape.s.new_zeros(tape.T, tape.B, cell.hidden_size) if g is None else g
            g, tape = taken(g, tape.active), complete(cell, tape)
            cell.need_rows_apart(NO_SHARE, "take the gradients of batches of one row", tape)
            lead = None if delta_T is None else delta_T[None]
            adjoints, delta_0 = self.engine.backward(cell, tape, g[None], lead)
            by_row = param_grads_by_row(cell, tape, adjoints[0]) if names else {}
            for name in names:
                collector = _collector_of(weights[name])
                if collector is not None:
                    collector.take(weights[name], by_row[name])
            x = cell.input_grad(adjoints[0]) if want_x else None
            return Gradients({name: by_row[name].sum(0) for name in names}, x, delta_0[0])


def _collector_of(weight: Tensor) -> Collector | None:
    return next((c for c in reversed(COLLECTORS) if c.serves(weight)), None)


def around(engine: Engine, cell: AbstractCell) -> Engine:
    """Return the engine, which also collects the rows' shares where somebody asks for them.

    Args:
        engine: the engine that does the work.
        cell: the recurrence that it takes.
    """
    if any(_collector_of(weight) is not None for weight in cell.weights().values()):
        return ByRow(engine)
    return engine


def of_call(weights: Iterable[Tensor]) -> Collector | None:
    """Return who asks for the shares of the call under way, having told them of this run.

    Args:
        weights: the run's own.
    """
    wanted = [weight for weight in weights if weight.requires_grad]
    for collector in reversed(CALLS):
        served = [weight for weight in wanted if collector.serves(weight)]
        if served:
            collector.begin(served)
            return collector
    return None


@contextmanager
def on_behalf_of(collector: Collector | None) -> Iterator[None]:
    """Collect for the one who asked when the run was taken forward, if anybody did.

    A schedule may come back to a weight several times; each weight is handed over once.
    """
    if collector is None:
        yield
        return
    found: dict[int, tuple[Tensor, Tensor]] = {}

    def add(weight: Tensor, shares: Tensor) -> None:
        before = found.get(id(weight))
        found[id(weight)] = weight, shares if before is None else before[1] + shares

    own = Collector(collector.weights, add)
    COLLECTORS.append(own)
    try:
        yield
    finally:
        COLLECTORS.remove(own)
    for weight, shares in found.values():
        collector.take(weight, shares)


def param_grads_by_row(cell: AbstractCell, tape: Tape, adjoints: Tensor) -> dict[str, Tensor]:
    """Return each row's share of dE/dW, (B, ·), whose sum over rows is `param_grads` (eq. 5).

    vmap does for all rows what the cell does for a batch of one, so that each GEMM becomes one
    batched GEMM. Where the cell does something that vmap cannot, rows are taken one by one.

    Args:
        cell: the recurrence.
        tape: the steps that ``adjoints`` belong to.
        adjoints: (T, B, A), as `vjp` returned them.

    Example:
        >>> from throughtime.cells import GRU
        >>> cell = GRU(3, 5)
        >>> tape = tt.kernels.forward(cell, torch.ones(7, 2, 3), torch.zeros(2, 5))
        >>> param_grads_by_row(cell, tape, torch.ones(7, 2, 15))["weight_hh"].shape
        torch.Size([2, 15, 5])
    """
    masks = {n: m for n, m in (("active", tape.active), ("reset", tape.reset)) if m is not None}

    def one(x: Tensor, s: Tensor, saved: tuple, adjoint: Tensor, masks: dict) -> dict[str, Tensor]:
        lone = Tape(
            x.unsqueeze(1),
            s.unsqueeze(1),
            tuple(kept.unsqueeze(1) for kept in saved),
            **{name: mask.unsqueeze(1) for name, mask in masks.items()},
        )
        return cell.param_grads(lone, adjoint.unsqueeze(1))

    if cell.takes_steps_at_once(tape):
        try:
            return torch.func.vmap(one, in_dims=1)(tape.x, tape.s, tape.saved, adjoints, masks)
        except Exception:
            pass
    rows = [_of_row(cell, tape.rows(b, b + 1), adjoints[:, b : b + 1]) for b in range(tape.B)]
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def _of_row(cell: AbstractCell, row: Tape, adjoints: Tensor) -> dict[str, Tensor]:
    """Return one row's share; raise if a user's own step cannot be run on that row alone."""
    if not isinstance(cell, Function):
        return cell.param_grads(row, adjoints)
    try:
        return cell.param_grads(row, adjoints)
    except Exception as error:
        raise UnsupportedError(
            f"the step function gives nothing, or another state, when it is run on a row by "
            f"itself, so a row {NO_SHARE}: {error} What it holds for each row of the batch (a "
            "mask, a constant) can be passed in as part of the input."
        ) from error
