"""Sweeps in plain torch that are replayed: the package's cells as a whole, others by steps."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from ... import cells, replays, sweep
from ...cells import AbstractCell, Function, probes
from ...cells.base import rebind
from ...tape import Tape

__all__ = ["Replaying", "known", "recorded_backward", "recorded_forward", "run_recorded"]

# After how many replayed steps a `Function` is asked whether it repeated itself; that is a wait.
ASKED = 16


def known(cell: AbstractCell) -> Hashable | None:
    """Return what a sweep of a cell depends on beside its weights; None for a cell of others'.

    Somebody's own class may depend on anything, so its sweeps are not recorded as a whole.

    Args:
        cell: the recurrence.
    """
    kind = type(cell)
    if kind is Function or getattr(cells, kind.__name__, None) is not kind:
        return None
    plain = (bool, int, float, str)
    told = sorted((k, v) for k, v in vars(cell).items() if isinstance(v, plain))
    return kind, tuple(told), tuple(cell.weights()), torch.backends.cuda.matmul.allow_tf32


def run_recorded(
    key: Hashable | None, work: replays.Work, inputs: Sequence[Tensor | None], more: int = 0
) -> replays.Tensors:
    """Do the work, as it was recorded where it is known and not too large.

    Args:
        key: what it depends on beside its inputs; None: nobody knows.
        work: takes and returns tensors.
        inputs: what it is called with.
        more: how many bytes it returns.
    """
    size = more + sum(t.nbytes for t in inputs if t is not None)
    device = next(t.device for t in inputs if t is not None)
    if key is None or size > replays.MOST_BYTES or replays.obstacle(device):
        return work(*inputs)
    return replays.REPLAYS.run(key, work, inputs)


def recorded_forward(
    cell: AbstractCell,
    x: Tensor,
    s_0: Tensor,
    active: Tensor | None,
    reset: Tensor | None,
    *,
    keep: bool,
) -> Tape | None:
    """Run the recurrence over all steps as one recording; None for a cell of others'.

    Args:
        cell: the recurrence.
        x: inputs (T, B, I).
        s_0: the initial state (B, S).
        active: (T, B) bool, or None.
        reset: (T, B) bool, or None.
        keep: whether the backward pass will be taken.
    """
    key, names = known(cell), list(cell.weights())
    if key is None:
        return None
    widths = cell.kept_widths()

    def work(x: Tensor, s_0: Tensor, *rest: Tensor | None) -> replays.Tensors:
        own = rebind(cell, dict(zip(names, rest[2:], strict=True)))  # pyright: ignore
        tape = sweep.forward(own, x, s_0, *rest[:2], keep=keep)
        return (tape.s, *(tape.saved if widths is None else tape.saved[: len(widths)]))

    with torch.no_grad():
        # A step keeps about what it computes: a, the state, and the gates.
        size = x.shape[0] * x.shape[1] * (cell.preact_size + 3 * cell.state_size) * x.itemsize
        given = (x, s_0, active, reset, *cell.weights().values())
        s, *saved = run_recorded(("forward", key, keep), work, given, size)
        assert s is not None
        tape = Tape(x, s, tuple(saved), active, reset)  # pyright: ignore
        if keep and widths is not None:
            tape = Tape(x, s, cell.with_states(tape), active, reset)
        return tape


def recorded_backward(
    cell: AbstractCell, tape: Tape, g: Tensor, delta_T: Tensor | None
) -> tuple[Tensor, Tensor] | None:
    """Send V losses back in plain torch as one recording; None for a cell of others'.

    Args:
        cell: the recurrence.
        tape: what its forward sweep kept, complete.
        g: direct gradients (V, T, B, G).
        delta_T: what else arrives at s_T, (V, B, S), or None.
    """
    key, names, n = known(cell), list(cell.weights()), len(tape.saved)
    if key is None:
        return None

    def work(g: Tensor, delta_T: Tensor | None, *rest: Any) -> replays.Tensors:
        active, reset, x, s, *saved = rest[: 4 + n]
        own = rebind(cell, dict(zip(names, rest[4 + n :], strict=True)))
        return sweep.backward(own, Tape(x, s, tuple(saved), active, reset), g, delta_T)

    V, T, B, _ = g.shape
    size = V * T * B * (cell.preact_size + cell.state_size) * g.itemsize
    with torch.no_grad():
        given = (g, delta_T, tape.active, tape.reset, tape.x, tape.s, *tape.saved)
        given = (*given, *cell.weights().values())
        return run_recorded(("backward", key), work, given, size)  # pyright: ignore


class Replaying:
    """Stands in for a cell in `sweep`: its step and its step back are replayed where they can be.

    Attributes:
        cell: the recurrence.
        reason: why some steps were not replayed; "" if nothing hindered it.
    """

    def __init__(self, cell: AbstractCell, T: int) -> None:
        """Begin a sweep.

        Args:
            cell: the recurrence.
            T: how many steps it has.
        """
        self.cell, self._kept = cell, ()
        self.state_size, self.hidden_size = cell.state_size, cell.hidden_size
        self.drive, self.vjp = cell.drive, cell.vjp
        self._forward = replays.replayed(cell, "step", self._take, T)
        back = self._pull if isinstance(cell, Function) else self._send
        self._back = replays.replayed(cell, "vjp", back, T)
        self._delta: torch.Size | None = None
        self._back_steps = 0

    @property
    def reason(self) -> str:
        """Why steps of this sweep were not replayed."""
        name = type(self.cell).__name__
        for steps, what in ((self._forward, "step"), (self._back, "step back")):
            if steps is not None and steps.reason:
                return f"the {what} of {name} is not recorded, since {steps.reason}."
        return ""

    def step(self, a_t: Tensor, s_prev: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Take one step, and put what the cell saved back in its place."""
        if self._forward is None:
            return self.cell.step(a_t, s_prev)
        s_t, *own = self._forward(a_t, s_prev)
        given: dict[str, Tensor | None] = {"a": a_t, "s_prev": s_prev, "s": s_t}
        rest = iter(own)
        saved = tuple(given[place] if place else next(rest) for place in self._kept)
        return s_t, saved  # pyright: ignore[reportReturnType]

    def _take(self, a_t: Tensor, s_prev: Tensor) -> replays.Tensors:
        result = self.cell.step(a_t, s_prev)
        sweep.check_result(self.cell, "step", result, s_prev.shape, "s_t", "what vjp needs")
        s_t, saved = result
        place = {id(a_t): "a", id(s_prev): "s_prev", id(s_t): "s"}
        self._kept = tuple(place.get(id(kept), "") for kept in saved)
        own = (kept for kept, known in zip(saved, self._kept, strict=True) if not known)
        return (s_t, *own)

    def swept(self, tape: Tape):
        """Return the step back, by step."""
        if self._back is None:
            return self.cell.swept(tape)
        each = list(zip(*(kept.unbind(0) for kept in tape.saved), strict=True))
        return lambda t, delta: self._step_back(each[t - 1], delta)

    def _step_back(self, saved: tuple[Tensor, ...], delta: Tensor) -> tuple[Tensor, Tensor]:
        assert self._back is not None
        if self._delta is None or self._back.reason or self._delta != delta.shape:
            if self._delta is None:
                self._delta = delta.shape
                self._back(delta, *saved)  # which is seen
            return self.cell.vjp(saved, delta)
        delta_prev, adjoint, *again = self._back(delta, *saved)
        if again and again[0] is not None:
            self._back_steps += 1
            if self._back_steps % ASKED == 0:
                probes.check_repeats(again[0], saved[2], saved[1])
        assert delta_prev is not None and adjoint is not None
        return delta_prev.clone(), adjoint

    def _send(self, delta: Tensor, *saved: Tensor) -> replays.Tensors:
        result = self.cell.vjp(saved, delta)
        sweep.check_result(self.cell, "vjp", result, delta.shape, "J_tᵀ delta", "the adjoint")
        return result

    def _pull(self, delta: Tensor, *saved: Tensor) -> replays.Tensors:
        return self.cell.pulled(saved, delta)  # pyright: ignore[reportAttributeAccessIssue]
