"""What an engine is: five verbs that move a recurrence through time, and what they take and return.

Every engine returns what the reference, `throughtime.sweep`, returns. `kernels.choose` decides
which one runs; nothing else asks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..cells import AbstractCell
from ..tape import Gradients, Tape
from .chosen import Choice

__all__ = [
    "Demand",
    "Engine",
    "Gradients",
    "Losses",
    "Outputs",
    "Prepared",
    "states",
    "unfit",
]


class Demand(NamedTuple):
    """What a sweep would be given, by which an engine decides whether it can take it.

    Attributes:
        tensors: all but the weights; None where there is none.
        T: steps.
        rows: batch rows, times the losses carried at once.
        active: (T, B) bool, or None; it is among ``tensors`` too.
        states: whether single steps are looked at, so that the tape must have every state.
    """

    tensors: Sequence[Tensor | None]
    T: int = 1
    rows: int = 1
    active: Tensor | None = None
    states: bool = True


class Outputs(NamedTuple):
    """A layer's outputs.

    Attributes:
        h: (T, B, H), 0 where a row takes no step.
        finals: the final state by the cell's ``parts``, each (1, B, ·) with memory of its own.
        tape: what the backward pass needs, bare, or None.
        shared: whether ``h`` shares memory with the tape's states, so that writing into it changes
            them.
    """

    h: Tensor
    finals: tuple[Tensor, ...]
    tape: Tape | None
    shared: bool = False


class Losses(NamedTuple):
    """What the backward pass of V losses produced.

    Attributes:
        norms: ‖∂E_v/∂s_k‖₂ (V, T+1, B); exactly 0 above the loss and below its floor. None if not
            asked for; likewise the next two.
        deltas: ∂E_v/∂s_k itself (V, T+1, B, S).
        adjoints: the adjoints that ``cell.vjp`` returns, (V, T, B, ·).
        s_0: ∂E_v/∂s_0 (V, B, S); 0 for a loss that is not followed that far.
    """

    norms: Tensor | None
    deltas: Tensor | None
    adjoints: Tensor | None
    s_0: Tensor


class Prepared(ABC):
    """Sweeps of one cell over weights that stay where they are, for the plainest calls.

    A short sweep takes less time than checking whether it can be taken. So the answer is kept, and
    a call checks only that the weights are where they were. Anything unusual gets None, and goes
    through `Engine.outputs` and `Engine.gradients`; so does what a class below says nothing of.

    Attributes:
        cell: the recurrence.
        weights: its weights.
    """

    cell: AbstractCell
    weights: tuple[Tensor, ...]

    @abstractmethod
    def holds(self, weights: Sequence[Tensor | None]) -> bool:
        """Check whether these are the weights, in the same memory and of the same kind."""

    @abstractmethod
    def takes(self, x: Tensor) -> bool:
        """Check whether ``x``, of three axes, is an ordinary tensor (T, B, I)."""

    def lengths(self, lengths: Any, x: Tensor) -> Any:
        """Return the rows' lengths as `forward` takes them; None where they are unusual."""
        del lengths, x

    def begin(self, parts: tuple[Tensor, ...], x: Tensor, runs: int) -> Sequence[Tensor] | None:
        """Return each run's s_0 (B, S) from the parts (runs, B, ·); None where it is unusual."""
        del parts, x, runs

    def takes_reset(self, reset: Tensor, x: Tensor) -> bool:
        """Check whether ``reset`` is an ordinary mask (T, B)."""
        del reset, x
        return False

    @abstractmethod
    def forward(
        self,
        x: Tensor,
        s_0: Tensor | None = None,
        lengths: Any = None,
        reset: Tensor | None = None,
        *,
        keep: bool,
    ) -> tuple[Any, ...]:
        """Run the recurrence from s_0, as `begin` returns it, over what it `takes` (eq. 1)."""

    @abstractmethod
    def back(
        self,
        done: Any,
        saved: Sequence[Tensor],
        reset: Tensor | None,
        g: Tensor | None,
        delta_T: Tensor | None,
        needs: Sequence[bool],
    ) -> list[Tensor | None] | None:
        """Return the gradients of x, s_0 and the weights (eq. 9, 5); None where it is unusual."""


class Engine(ABC):
    """A way to move a recurrence through time: five verbs, each equal to the reference's.

    Attributes:
        name: what `kernels.use`, `kernels.choice` and `kernels.last_choice` call it.
        asked_for: whether `kernels.use` takes the name.
        reads_graphs: whether it takes a tape without states, which holds a graph of torch's.
        keeps_steps: whether what its `outputs` keeps can be cut into steps.
        how: how it runs; `kernels.choice` appends it to the reason why no other one does.
    """

    name: str
    asked_for: bool = True
    reads_graphs: bool = False
    keeps_steps: bool = True
    how: str = ""

    def missing(self) -> str:
        """Return in one sentence why this engine is not installed; "" if it is."""
        return ""

    def concerns(self, cell: AbstractCell) -> bool:
        """Check whether a choice for this cell should speak of this engine at all.

        An engine for another kind of device is passed over, and is not the reason for anything.

        Args:
            cell: the recurrence.
        """
        del cell
        return True

    def chosen(self, cell: AbstractCell) -> Choice:
        """Return the choice of this engine when no other is preferred to it."""
        return Choice(self.name, f"{type(cell).__name__} runs on {self.name}.")

    def instead(self, cell: AbstractCell, demand: Demand) -> tuple[Engine, Choice] | None:
        """Return who takes a sweep on this engine's behalf, and why; None: it does so itself.

        Args:
            cell: the recurrence.
            demand: what the sweep is given, and is no obstacle.
        """
        del cell, demand
        return None

    def follows_autocast(self, cell: AbstractCell) -> bool:
        """Check whether a layer that runs on this engine has the precision that autocast asks for.

        Otherwise it keeps that of its weights.

        Args:
            cell: the recurrence.
        """
        del cell
        return False

    @abstractmethod
    def obstacle(self, cell: AbstractCell, demand: Demand) -> str:
        """Return in one sentence why this engine cannot take the sweep; "" if it can.

        Args:
            cell: the recurrence.
            demand: what the sweep is given.
        """

    @abstractmethod
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

        Args:
            cell: the recurrence.
            x: inputs (T, B, I).
            s_0: the initial state (B, S); None: zeros.
            active: (T, B) bool; rows that are False keep their state and output 0.
            reset: (T, B) bool, within ``active``; where True the state is zeroed before the step.
            keep: whether the backward pass will be taken.
        """

    @abstractmethod
    def forward(
        self,
        cell: AbstractCell,
        x: Tensor,
        s_0: Tensor,
        active: Tensor | None = None,
        reset: Tensor | None = None,
    ) -> Tape:
        """Run the recurrence over all steps and return the tape (eq. 1), as `sweep.forward` does.

        Args:
            cell: the recurrence.
            x: inputs (T, B, I).
            s_0: the initial state (B, S).
            active: (T, B) bool; rows that are False keep their state.
            reset: (T, B) bool, within ``active``; where True the state is zeroed before the step.
        """

    def taped(
        self,
        cell: AbstractCell,
        x: Tensor,
        s_0: Tensor,
        active: Tensor | None = None,
        reset: Tensor | None = None,
    ) -> Tape:
        """Run the recurrence over all steps and return what `gradients` needs, of any form.

        Args:
            cell: the recurrence.
            x: inputs (T, B, I).
            s_0: the initial state (B, S).
            active: (T, B) bool; rows that are False keep their state.
            reset: (T, B) bool, within ``active``; where True the state is zeroed before the step.
        """
        return self.forward(cell, x, s_0, active, reset)

    @abstractmethod
    def backward(
        self, cell: AbstractCell, tape: Tape, g: Tensor, delta_T: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Send V losses back through all steps in one sweep (eq. 9), as `sweep.backward` does.

        Args:
            cell: the recurrence.
            tape: what its forward sweep kept.
            g: direct gradients (V, T, B, G) into the first G ≤ S entries of s_1…s_T.
            delta_T: what else arrives at s_T, (V, B, S).

        Returns:
            The adjoints (V, T, B, ·), and dE/ds_0 (V, B, S).
        """

    @abstractmethod
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
        """Send one loss back and return every gradient that is wanted (eq. 5, 9).

        Args:
            cell: the recurrence.
            tape: what its forward sweep kept.
            g: direct gradients (T, B, G) into the first G ≤ S entries of s_1…s_T, except that
                steps which a row does not take do not count, since it outputs 0 there; None:
                nowhere.
            delta_T: what else arrives at s_T, (B, S).
            wants: the weights whose gradients are wanted; None: all.
            want_x: whether dE/dx is wanted.
        """

    @abstractmethod
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
        """Send V losses back in one sweep, each only between its entry and its floor (eq. 9).

        Args:
            cell: the recurrence.
            tape: what its forward sweep kept.
            g: direct gradients (V, T, B, G); or, with ``enters``, (T, B, G): loss v enters at step
                ``enters[v]`` alone, and with ``g`` of that step.
            enters: (V,) steps from 1 to T; 0 for a loss that does not enter.
            floors: (V,) the lowest k that each loss is followed to; None: 0.
            norms: whether the norms are wanted; they neither overflow nor underflow unless the
                vectors do, and the vectors are not kept for them.
            deltas: whether the vectors are wanted.
            adjoints: whether the adjoints are wanted, down to step ``floor`` (from 1).
        """

    def empty(self, like: Tensor, *shape: int) -> Tensor:
        """Return a tensor to write for the first time, in memory that suits the engine."""
        return like.new_empty(shape)

    def prepare(self, cell: AbstractCell, choice: Choice) -> Prepared | None:
        """Return sweeps with everything prepared that all calls share; None where it has none.

        Args:
            cell: the recurrence, over weights that stay.
            choice: what `kernels.last_choice` says after a call.
        """
        del cell, choice
        return None


def states(s: Tensor) -> Tensor:
    """Return the states after the first, in the same memory but with a version count of their own.

    Writing into them counts as a change of h, not of s.
    """
    return s.narrow(0, 1, s.shape[0] - 1).data


def unfit(tensor: Tensor, weight: Tensor) -> str:
    """Return why a kernel cannot be given the address of this tensor; "" if it can.

    Args:
        tensor: what a kernel would read or write.
        weight: one of the cell's, whose dtype and device it must have.
    """
    if tensor.layout != torch.strided:
        return f"a tensor has the layout {tensor.layout}."
    if tensor.dtype not in (weight.dtype, torch.bool):
        return f"a tensor has dtype {tensor.dtype}, and the weights {weight.dtype}."
    if tensor.device != weight.device:
        return f"a tensor is on {tensor.device}, and the weights on {weight.device}."
    if tensor.is_neg():
        return "a tensor is a view that stands for the negative of its memory."
    try:
        tensor.data_ptr()
    except RuntimeError:
        return "a tensor has no memory of its own: it is seen by vmap or by the compiler."
    return ""
