"""The compiled sweeps as an engine, and which cells and dtypes they serve."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from ...cells import GRU, LSTM, AbstractCell, Elman, LayerNormLSTM
from ...tape import Gradients, Tape, complete
from ...torch_state import is_faked
from ..chosen import Choice
from ..engine import Demand, Engine, Losses, Outputs, states, unfit
from . import library, run
from .arguments import Span
from .prepared import PreparedSweeps

__all__ = ["CELLS", "NATIVE", "Available", "Native", "available"]

# The cells with a compiled kernel, by their numbers in native/interface.h.
CELLS: dict[type[AbstractCell], int] = {Elman: 0, LSTM: 1, GRU: 2, LayerNormLSTM: 3}
DTYPES = (torch.float32, torch.float64)
_LIMIT = 2**31 - 1  # rows and steps are counted in 32 bits
# So few losses are sent back at once: to ask where one of them underflows takes longer.
FEW = 4


class Available(NamedTuple):
    """What is available on this machine.

    Attributes:
        native: whether the compiled kernels can be used.
        isa: the instruction set they run on.
        isas: all that this build and this machine have, best first.
        threads: the OpenMP library whose threads they use; empty: the calling thread only.
        reason: what is missing, if ``native`` is False.
    """

    native: bool
    isa: str
    isas: tuple[str, ...]
    threads: str
    reason: str


def available() -> Available:
    """Return which compiled kernels there are on this machine, and what is missing.

    Example:
        >>> available().isas[-1:] in ((), ("portable",))
        True
    """
    found = library.library()
    there = found.handle is not None
    return Available(there, library.isa(), library.isas(), found.pool, found.reason)


class Native(Engine):
    """The compiled sweeps on a CPU, in float32 and float64."""

    name = "native"

    def missing(self) -> str:
        """Return why there is no library."""
        return library.library().reason

    def chosen(self, cell: AbstractCell) -> Choice:
        """Return the choice, with the instruction set."""
        return _chosen(type(cell), library.isa())

    def obstacle(self, cell: AbstractCell, demand: Demand) -> str:
        """Return why the compiled sweep does not apply; "" if it does.

        Every short sweep asks, so the usual case is settled without building a sentence.
        """
        weights = cell._parameters
        weight = weights.get("weight_hh")
        if weight is None or type(cell) not in CELLS or weights.get("weight_hr") is not None:
            return library.library().reason or _no_kernel(cell)
        dtype = weight.dtype
        if library.library().handle is None or dtype not in DTYPES or not weight.is_cpu:
            return library.library().reason or _no_kernel(cell)
        if is_faked(weight):
            return "a mode of torch's dispatcher makes tensors without memory."
        for tensor in (*demand.tensors, *weights.values()):
            if tensor is None:
                continue
            fits = tensor.dtype is dtype or tensor.dtype is torch.bool
            if not fits or not library.address(tensor):
                return _unfit(tensor, weight)
        if demand.T == 0 or demand.rows == 0:
            return "there is nothing to compute: no step or no row."
        if max(demand.T + 1, demand.rows) > _LIMIT:
            return "there are more rows or steps than 2³¹ − 1."
        return "" if demand.active is None else Span.of(demand.active).obstacle

    def outputs(
        self,
        cell: AbstractCell,
        x: Tensor,
        s_0: Tensor | None,
        active: Tensor | None = None,
        reset: Tensor | None = None,
        *,
        keep: bool = True,
    ) -> Outputs:
        """Run the recurrence over all steps and return a layer's outputs (eq. 1).

        The sweep itself fills in s_0 and the parts of the final state, because each operation of
        torch costs 20 to 40 µs where a program has just done something else.
        """
        T, B, _ = x.shape
        H = cell.hidden_size
        shared = keep and active is None and cell.state_size == H
        h = None if shared else library.empty(x, T, B, H)
        finals, tape = run.run_forward(cell, CELLS[type(cell)], x, s_0, active, reset, h, keep)
        if h is None:
            assert tape is not None
            h = states(tape.s)
        return Outputs(h, finals, tape, shared)

    def forward(
        self,
        cell: AbstractCell,
        x: Tensor,
        s_0: Tensor,
        active: Tensor | None = None,
        reset: Tensor | None = None,
    ) -> Tape:
        """Run the recurrence over all steps and return the tape (eq. 1)."""
        _, tape = run.run_forward(cell, CELLS[type(cell)], x, s_0, active, reset)
        assert tape is not None
        with torch.no_grad():
            return complete(cell, tape)

    def backward(
        self, cell: AbstractCell, tape: Tape, g: Tensor, delta_T: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Send V losses back through all steps in one sweep (eq. 9)."""
        with torch.no_grad():
            number = CELLS[type(cell)]
            adjoints = library.empty(g, *g.shape[:3], _adjoint_size(cell, number))
            return adjoints, run.run_back(cell, number, tape, g, delta_T, adjoints=adjoints)

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
        """Run the steps back, and the products while the adjoints are in cache (eq. 5, 9)."""
        number = CELLS[type(cell)]
        arguments = run.back_arguments(cell, number, tape, g, delta_T, with_x=True)
        weights = {n: w for n, w in cell.weights().items() if wants is None or n in wants}
        return run.run_gradients(arguments.sweep, cell, tape.x, weights, want_x)

    def losses(
        self,
        cell: AbstractCell,
        tape: Tape,
        g: Tensor,
        *,
        enters: Tensor | None = None,
        floors: Tensor | None = None,
        norms: bool = True,
        deltas: bool = False,
        adjoints: bool = False,
    ) -> Losses:
        """Send V losses back in one sweep, each only between its entry and its floor (eq. 9)."""
        with torch.no_grad():
            wanted = (norms, deltas, adjoints)
            if enters is not None and wanted == (True, False, False) and len(enters) > FEW:
                return self._until_underflow(cell, tape, g, enters, floors)
            return self._losses(cell, tape, g, enters, floors, wanted)

    def _losses(
        self,
        cell: AbstractCell,
        tape: Tape,
        g: Tensor,
        enters: Tensor | None,
        floors: Tensor | None,
        wanted: tuple[bool, bool, bool],
    ) -> Losses:
        V = g.shape[0] if enters is None else enters.shape[0]
        T, B, S = tape.T, tape.B, cell.state_size
        last = _last_entry(g) if enters is None else enters
        new = tape.s.new_empty
        found = Losses(
            new(V, T + 1, B) if wanted[0] else None,
            new(V, T + 1, B, S) if wanted[1] else None,
            new(V, T, B, _adjoint_size(cell, CELLS[type(cell)])) if wanted[2] else None,
            tape.s,
        )
        s_0 = run.run_back(
            cell, CELLS[type(cell)], tape, g, V=V, enters=last - 1, floors=floors,
            adjoints=found.adjoints, norms=found.norms, deltas=found.deltas,
        )  # fmt: skip
        return found._replace(s_0=s_0)

    def _until_underflow(
        self,
        cell: AbstractCell,
        tape: Tape,
        g: Tensor,
        enters: Tensor,
        floors: Tensor | None,
    ) -> Losses:
        """Follow each loss only until its gradient has underflowed to exactly 0.

        The last loss is sent back alone. The lag at which it underflows, plus a margin, is then
        tried on the others. What is 0 stays 0, so the losses that are 0 at that lag are done; the
        rest, if any, are sent back all the way.
        """
        norms_alone = (True, False, False)
        floors = torch.zeros_like(enters) if floors is None else floors
        last = slice(int(enters.argmax()), int(enters.argmax()) + 1)
        one = self._losses(cell, tape, g, enters[last], floors[last], norms_alone)
        assert one.norms is not None
        arrived = (one.norms[0] != 0).any(1).nonzero().flatten()
        underflow = int(enters[last] - arrived[0]) if len(arrived) else 0
        raised = torch.maximum(floors, enters - (underflow + underflow // 4 + 16))
        found = self._losses(cell, tape, g, enters, raised, norms_alone)
        assert found.norms is not None
        at_floor = found.norms[torch.arange(len(enters), device=g.device), raised.clamp(min=0)]
        open_ = ((raised > floors) & (at_floor != 0).any(1)).nonzero().flatten()
        if len(open_):
            rest = self._losses(cell, tape, g, enters[open_], floors[open_], norms_alone)
            assert rest.norms is not None
            found.norms[open_], found.s_0[open_] = rest.norms, rest.s_0
        return found

    def empty(self, like: Tensor, *shape: int) -> Tensor:
        """Return a tensor to write for the first time, on large pages if it is large."""
        return library.empty(like, *shape)

    def prepare(self, cell: AbstractCell, choice: Choice) -> PreparedSweeps | None:
        """Prepare what the sweeps need in every call; None if a weight is not contiguous."""
        if not all(weight.is_contiguous() for weight in cell.weights().values()):
            return None
        return PreparedSweeps(cell, CELLS[type(cell)], choice)


NATIVE = Native()


@cache
def _chosen(cell: type[AbstractCell], isa: str) -> Choice:
    return Choice("native", f"{cell.__name__} has a compiled kernel ({isa}).")


def _adjoint_size(cell: AbstractCell, number: int) -> int:
    """Return the width of the adjoints that the cell's ``vjp`` and its kernel return."""
    return library.cell_facts(number).adjoint * cell.hidden_size


def _last_entry(g: Tensor) -> Tensor:
    """Return the last step, from 1, at which each loss has a gradient that is not 0."""
    if bool((g[:, -1] != 0).flatten(1).any(1).all()):  # most often, and soon told
        return torch.full((len(g),), g.shape[1], device=g.device)
    entered = (g != 0).flatten(2).any(-1)
    return (entered * torch.arange(1, g.shape[1] + 1, device=g.device)).amax(1)


def _no_kernel(cell: AbstractCell) -> str:
    """Return for which cell, device or dtype no kernel was compiled."""
    name = type(cell).__name__
    if type(cell) not in CELLS:
        return f"{name} has no compiled kernel."
    if isinstance(cell, LSTM) and cell.projected:
        return "a projected LSTM has no compiled kernel."
    weight = cell.weights()["weight_hh"]
    return f"{name} has no compiled kernel for {weight.dtype} on {weight.device}."


def _unfit(tensor: Tensor, weight: Tensor) -> str:
    """Return why native code cannot be given this tensor."""
    return unfit(tensor, weight) or "a tensor has no memory: its storage was emptied."
