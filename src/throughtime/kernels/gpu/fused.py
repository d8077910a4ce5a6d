"""Single steps on a GPU in few launches: sweeps and steps recorded in CUDA graphs, one kernel back.

It runs what would otherwise run on the reference, the scan or the blocks, and does the same.
"""

from __future__ import annotations

import importlib
from collections.abc import Hashable, Sequence
from functools import cache, partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ... import replays, sweep, torch_state
from ...cells import AbstractCell
from ...tape import Gradients, Tape, complete
from ..chosen import Choice, note, wanted
from ..engine import Demand, Losses
from ..plain import blocks, scan
from ..plain.engine import SCAN, Blocks, Plain
from ..plain.losses import losses as plain_losses
from ..plain.losses import sorted_losses
from .engine import compiler_missing
from .replayed_steps import Replaying
from .replayed_sweeps import recorded_backward, recorded_forward, run_recorded

__all__ = ["FUSED", "Fused"]

# A block of steps is one replay, so it is large.
BLOCK_BYTES = 1 << 25


class Fused(Plain):
    """Every cell on a GPU, step by step: recorded where it can be, and the rest as it was."""

    name = "fused"
    asked_for = False
    how = " Its steps run in few launches: recorded in a CUDA graph where that can be done."

    @property
    def sweeps(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The forward sweep, as `Plain.outputs` asks for it."""
        return _Sweeps

    def concerns(self, cell: AbstractCell) -> bool:
        """Check whether the cell is on a GPU."""
        weight = next(iter(cell.weights().values()), None)
        return weight is not None and torch_state.is_on_gpu(weight)

    def chosen(self, cell: AbstractCell) -> Choice:
        """Return the choice."""
        return Choice(self.name, f"{type(cell).__name__} runs step by step.{self.how}")

    def obstacle(self, cell: AbstractCell, demand: Demand) -> str:
        """Return why steps cannot be recorded here; "" if they can."""
        if not self.concerns(cell):
            return f"{type(cell).__name__} is not on a GPU."
        if wanted() not in ("auto", "torch"):
            return "another engine is asked for."
        weight = next(iter(cell.weights().values()))
        tensors = [t for t in demand.tensors if t is not None]
        if any(map(torch_state.is_batched, tensors)):
            return "a tensor has no memory of its own, so nothing is recorded."
        if demand.T == 0 or demand.rows == 0:
            return "there is nothing to compute: no step or no row."
        return replays.obstacle(weight.device)

    def backward(
        self, cell: AbstractCell, tape: Tape, g: Tensor, delta_T: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Send V losses back through all steps in one sweep (eq. 9)."""
        tape = complete(cell, tape)
        if SCAN.serves(cell):
            return SCAN.backward(cell, tape, g, delta_T)
        if _BLOCKS.serves(cell) and len(g) == 1:
            return _BLOCKS.backward(cell, tape, g, delta_T)
        if not self.no_kernel(cell, g):
            launch = _launch()
            say = partial(self.say, cell)
            found = launch.sent_back(cell, tape, g, delta_T, None, launch.Bound(), say)
            return found.adjoints, found.s_0
        done = recorded_backward(cell, tape, g, delta_T, partial(self.say, cell))
        if done is not None:
            return done
        stand_in = Replaying(cell, g.device, len(g))
        found = sweep.backward(stand_in, tape, g, delta_T)  # pyright: ignore
        self.say(cell, stand_in.reason)
        return found

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
        engine = _BLOCKS if _BLOCKS.serves(cell) else super()
        return engine.gradients(cell, tape, g, delta_T, wants=wants, want_x=want_x)

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
        tape = complete(cell, tape)
        asked: dict[str, Any] = {"norms": norms, "deltas": deltas, "adjoints": adjoints}
        bounded = enters is not None or floors is not None
        if SCAN.serves(cell) and deltas and not bounded:
            return SCAN.losses(cell, tape, g, **asked)
        with torch.no_grad():
            why = self.no_kernel(cell, g)
            if not why:
                launch, course = _launch(), sorted_losses(tape.T, g, enters, floors)
                bound = launch.Bound(**asked, lone=enters is not None)
                say = partial(self.say, cell)
                return launch.sent_back(cell, tape, course.g, None, course, bound, say)
            V = len(g) if enters is None else len(enters)
            stand_in = Replaying(cell, g.device, V)
            found = plain_losses(stand_in, tape, g, enters, floors, **asked)  # pyright: ignore
        self.say(cell, f"{why} {stand_in.reason}".strip())
        return found

    def no_kernel(self, cell: AbstractCell, g: Tensor) -> str:
        """Return why the kernel of a step back does not take a cell's; "" if it does."""
        if not cell.has_factors:
            name = type(cell).__name__
            return f"a step back of {name} has no factors that one kernel could take."
        if g.dtype not in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
            return f"there is no kernel for {g.dtype}."
        return _no_kernel(g.device)

    def say(self, cell: AbstractCell, why: str) -> None:
        """Note why not everything was recorded or fused, if so."""
        if why:
            note(Choice(self.name, f"{self.chosen(cell).reason} Not everywhere: {why}"))


class _ReplayedBlocks(Blocks):
    """`cells.Function`'s blocks, each of them one replay."""

    def __init__(self) -> None:
        self.way = blocks.Way(BLOCK_BYTES, self._run)

    def _run(self, key: Hashable, work: Any, inputs: Sequence[Tensor | None]) -> Any:
        # A program of torch's operations depends on nothing but its inputs and how they round.
        return run_recorded((key, torch_state.rounding()), work, inputs, 0, self._say)

    def _say(self, why: str) -> None:
        note(Choice(FUSED.name, f"Function runs step by step.{FUSED.how} Not everywhere: {why}"))


_BLOCKS = _ReplayedBlocks()


class _Sweeps:
    """The forward sweep of a cell by whoever takes it best."""

    @staticmethod
    def forward(
        cell: AbstractCell,
        x: Tensor,
        s_0: Tensor,
        active: Tensor | None = None,
        reset: Tensor | None = None,
        *,
        keep: bool = True,
    ) -> Tape:
        """Run the recurrence over all steps and keep the tape, as `sweep.forward` does."""
        if SCAN.serves(cell):
            return scan.forward(cell, x, s_0, active, reset, keep=keep)
        say = partial(FUSED.say, cell)
        done = recorded_forward(cell, x, s_0, active, reset, keep=keep, say=say)
        if done is not None:
            return done
        stand_in = Replaying(cell, x.device)
        tape = sweep.forward(stand_in, x, s_0, active, reset, keep=keep)  # pyright: ignore
        FUSED.say(cell, stand_in.reason)
        return tape


FUSED = Fused()


def _launch() -> ModuleType:
    return importlib.import_module(f"{__package__}.sending")


@cache
def _no_kernel(device: torch.device) -> str:
    """Return why the kernel cannot run on a device; "" if a first sweep was right there."""
    missing = compiler_missing()
    if missing:
        return f"no step back is fused: {missing}"
    return _launch().trial(device)
