"""The engines in plain torch: one step at a time, by a scan, and by blocks of steps."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from ... import sweep
from ...cells import AbstractCell, Function
from ...tape import Gradients, Tape, bare, complete, split, taken
from ..engine import Demand, Engine, Losses, Outputs, states
from . import blocks, scan
from .losses import losses

__all__ = ["BLOCKS", "REFERENCE", "SCAN", "Blocks", "Plain", "Scan"]


class Plain(Engine):
    """The reference: one step at a time, in torch. It takes every cell."""

    name = "reference"
    sweeps: ModuleType = sweep

    def serves(self, cell: AbstractCell) -> bool:
        """Check whether this engine's sweeps take such a cell."""
        del cell
        return True

    def obstacle(self, cell: AbstractCell, demand: Demand) -> str:
        """Return "" for the cells that this engine serves, for any input."""
        del demand
        return "" if self.serves(cell) else f"{type(cell).__name__} is not for the {self.name}."

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
        """Run the recurrence over all steps and return a layer's outputs (eq. 1)."""
        H = cell.hidden_size
        with torch.no_grad():
            s_0 = x.new_zeros(x.shape[1], cell.state_size) if s_0 is None else s_0
            tape = self.sweeps.forward(cell, taken(x, active), s_0, active, reset, keep=keep)
            shared = active is None and cell.state_size == H and tape.s.is_contiguous()
            h = states(tape.s) if shared else taken(tape.s[1:, :, :H], active).contiguous()
            finals = split(tape.s[-1], cell.parts())
        return Outputs(h, finals, bare(cell, tape), shared) if keep else Outputs(h, finals, None)

    def forward(
        self,
        cell: AbstractCell,
        x: Tensor,
        s_0: Tensor,
        active: Tensor | None = None,
        reset: Tensor | None = None,
    ) -> Tape:
        """Run the recurrence over all steps and return the tape (eq. 1)."""
        return self.sweeps.forward(cell, taken(x, active), s_0, active, reset)

    def backward(
        self, cell: AbstractCell, tape: Tape, g: Tensor, delta_T: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Send V losses back through all steps in one sweep (eq. 9)."""
        return self.sweeps.backward(cell, complete(cell, tape), g, delta_T)

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
        """Send one loss back and return every gradient that is wanted (eq. 5, 9)."""
        names = [n for n in cell.weights() if wants is None or n in wants]
        with torch.no_grad():
            g = tape.s.new_zeros(tape.T, tape.B, cell.hidden_size) if g is None else g
            tape = complete(cell, tape)
            lead = None if delta_T is None else delta_T[None]
            adjoints, delta_0 = self.backward(cell, tape, taken(g, tape.active)[None], lead)
            found = cell.param_grads(tape, adjoints[0]) if names else {}
            x = cell.input_grad(adjoints[0]) if want_x else None
        return Gradients({name: found[name] for name in names}, x, delta_0[0])

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
            return losses(
                cell, complete(cell, tape), g, enters, floors,
                norms=norms, deltas=deltas, adjoints=adjoints,
            )  # fmt: skip


class Scan(Plain):
    """A cell of the form s_t = d ⊙ s_{t-1} + u: one scan for all steps, forward and back."""

    name = "scan"
    asked_for = False
    how = " Its recurrence is taken by one scan in torch."
    sweeps = scan

    def serves(self, cell: AbstractCell) -> bool:
        """Check whether the cell defines d and u."""
        return type(cell).affine is not AbstractCell.affine

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
        """Send V losses back, by the scan if the vectors of all steps may be kept."""
        if not deltas or enters is not None or floors is not None:
            return super().losses(
                cell, tape, g, enters=enters, floors=floors,
                norms=norms, deltas=deltas, adjoints=adjoints,
            )  # fmt: skip
        with torch.no_grad():
            return scan.losses(cell, complete(cell, tape), g, norms=norms, adjoints=adjoints)


class Blocks(Plain):
    """`cells.Function`: steps run in torch, and the backward pass takes many of them at once."""

    name = "blocks"
    asked_for = False
    how = " Its steps run in torch, and the backward pass takes many of them at once."
    way: blocks.Way = blocks.AS_THEY_ARE

    def serves(self, cell: AbstractCell) -> bool:
        """Check whether only autograd knows the step."""
        return isinstance(cell, Function)

    def backward(
        self, cell: AbstractCell, tape: Tape, g: Tensor, delta_T: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Send V losses back: one loss by blocks of steps, several step by step (eq. 9)."""
        if g.shape[0] != 1:
            return super().backward(cell, tape, g, delta_T)
        return blocks.backward(cell, complete(cell, tape), g, delta_T, self.way)  # pyright: ignore

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
        """Send one loss back by blocks of steps and return what is wanted (eq. 5, 9)."""
        names = [n for n in cell.weights() if wants is None or n in wants]
        with torch.no_grad():
            g = None if g is None else taken(g, tape.active)
            tape = complete(cell, tape)
            found = blocks.gradients(cell, tape, g, delta_T, names, want_x, self.way)  # pyright: ignore
            return Gradients(*found)


SCAN, BLOCKS, REFERENCE = Scan(), Blocks(), Plain()
