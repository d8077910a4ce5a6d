"""What a schedule is: what it keeps of a forward pass, and how the backward pass uses it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ..cells.base import AbstractCell
from ..errors import InputTypeError, InputValueError
from ..tape import Gradients, Tape

if TYPE_CHECKING:
    # An engine is passed in: the engines come after the schedules.
    from ..kernels.engine import Engine

__all__ = [
    "AbstractSchedule",
    "Kept",
    "Total",
    "check_count",
    "check_schedule",
    "last_steps",
    "mask_steps",
]

# By class name, for schedules that pass through an operation of torch as plain values.
_KINDS: dict[str, type[AbstractSchedule]] = {}


class Kept(NamedTuple):
    """What a forward pass under a schedule returns.

    Attributes:
        h: (T, B, H), 0 where a row takes no step.
        finals: the parts of the final state, each (1, B, ·).
        kept: what the backward pass needs besides the input, s_0 and the weights.
        shared: whether ``h`` shares memory with ``kept``.
    """

    h: Tensor
    finals: tuple[Tensor, ...]
    kept: tuple[Tensor, ...]
    shared: bool = False


class AbstractSchedule(ABC):
    """Which steps are kept, recomputed or cut on the backward pass.

    A schedule handles one loss, and moves through time by the engine that it is given.

    Attributes:
        exact: whether the gradient is that of all steps.
        batches_losses: whether several losses may travel in one sweep.
        looks_at_steps: whether single steps of what was kept are used.
    """

    exact: ClassVar[bool] = True
    batches_losses: ClassVar[bool] = False
    looks_at_steps: ClassVar[bool] = True

    def __init_subclass__(cls, **named: Any) -> None:
        """Register the schedule by its name."""
        super().__init_subclass__(**named)
        _KINDS[cls.__name__] = cls

    def outputs(
        self,
        engine: Engine,
        cell: AbstractCell,
        x: Tensor,
        s_0: Tensor | None,
        active: Tensor | None,
        reset: Tensor | None,
        *,
        keep: bool,
    ) -> Kept:
        """Run the recurrence (eq. 1) and keep what the backward pass needs: by default, every step.

        Args:
            engine: what runs the sweeps.
            cell: the recurrence.
            x: inputs (T, B, I).
            s_0: the initial state (B, S); None: zeros.
            active: (T, B) bool, or None.
            reset: (T, B) bool, or None.
            keep: whether the backward pass will be taken.
        """
        h, finals, tape, shared = engine.outputs(cell, x, s_0, active, reset, keep=keep)
        return Kept(h, finals, () if tape is None else (tape.s, *tape.saved), shared)

    @abstractmethod
    def gradients(
        self,
        engine: Engine,
        cell: AbstractCell,
        tape: Tape,
        g_h: Tensor | None,
        g_s: Tensor | None,
        *,
        wants: frozenset[str] | None,
        want_x: bool,
    ) -> Gradients:
        """Send one loss back (eq. 5, 9).

        Args:
            engine: what runs the sweeps.
            cell: the recurrence.
            tape: the inputs and masks, with what `outputs` kept, as `tape` returns it.
            g_h: what arrives at the outputs, (T, B, H).
            g_s: what arrives at the final state, (B, S).
            wants: the weights whose gradients are wanted; None: all.
            want_x: whether dE/dx is wanted.
        """

    def tape(
        self,
        x: Tensor,
        s_0: Tensor | None,
        kept: tuple[Tensor, ...],
        active: Tensor | None,
        reset: Tensor | None,
    ) -> Tape:
        """Return what `outputs` kept as the tape that `gradients` takes."""
        del s_0
        return Tape(x, kept[0], kept[1:], active, reset)

    def kept_shapes(
        self, cell: AbstractCell, x: Tensor, s_0: Tensor
    ) -> list[tuple[int | None, ...]]:
        """Return the shapes of what `outputs` keeps; None for a size that depends on values."""
        del s_0
        T, B = x.shape[:2]
        widths = cell.kept_widths() or ()
        return [(T + 1, B, cell.state_size), *((T, B, width) for width in widths)]

    def whole(self) -> AbstractSchedule:
        """Return the schedule that keeps every step, for a trace; itself where it does."""
        return self

    def left_out(
        self, engine: Engine, cell: AbstractCell, tape: Tape, g: Tensor
    ) -> dict[str, Tensor] | None:
        """Return the terms of dE/dW (eq. 5) beyond the schedule's reach, summed; None: none.

        Args:
            engine: what runs the sweeps.
            cell: the recurrence.
            tape: what the forward sweep kept, complete.
            g: all that enters the layer, (T, B, G).
        """
        del engine, cell, tape, g
        return None

    def told(self) -> tuple[str, int | None, int | None, str | None]:
        """Return the schedule as an operation of torch takes it: name, window, every, memory."""
        return type(self).__name__, None, None, None

    @staticmethod
    def of(
        name: str, window: int | None, every: int | None, memory: str | None
    ) -> AbstractSchedule:
        """Return the schedule that `told` described."""
        return _KINDS[name].from_told(window, every, memory)

    @classmethod
    def from_told(
        cls, window: int | None, every: int | None, memory: str | None
    ) -> AbstractSchedule:
        """Return the schedule of this class that `told` described."""
        del window, every, memory
        return cls()


def check_schedule(schedule: object) -> None:
    """Raise unless ``schedule`` is one.

    Raises:
        InputTypeError: it is not.
    """
    if not isinstance(schedule, AbstractSchedule):
        raise InputTypeError(
            "a schedule is tt.Full(), tt.Truncated(window) or tt.Checkpointed(every=); got "
            f"{schedule!r}."
        )


def check_count(name: str, value: object) -> None:
    """Raise unless ``value`` is a number of steps.

    Raises:
        InputTypeError: no integer.
        InputValueError: below 1.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputTypeError(f"{name} must be an integer; got {value!r}.")
    if value < 1:
        raise InputValueError(f"{name} must be at least 1; got {value}.")


def last_steps(tape: Tape) -> Tensor:
    """Return the last step that each row takes, (B,)."""
    if tape.active is None:
        return torch.full((tape.B,), len(tape.x), device=tape.x.device)
    steps = torch.arange(1, len(tape.x) + 1, device=tape.x.device)[:, None]
    return (steps * tape.active).amax(0)


def mask_steps(mask: Tensor | None, steps: slice) -> Tensor | None:
    """Return some steps of a mask (T, B), or None."""
    return None if mask is None else mask[steps]


class Total:
    """The gradients of several stretches, added up."""

    def __init__(self, x: Tensor | None) -> None:
        """Begin with none.

        Args:
            x: zeros (T, B, I) into which dE/dx is summed; None if it is not wanted.
        """
        self.weights: dict[str, Tensor] = {}
        self.x = x

    def add(self, found: Gradients, steps: slice) -> None:
        """Add the gradients of some steps."""
        if self.x is not None:
            assert found.x is not None
            self.x[steps] += found.x
        for name, grad in found.weights.items():
            if name in self.weights:
                self.weights[name] += grad
            else:
                self.weights[name] = grad.clone()
