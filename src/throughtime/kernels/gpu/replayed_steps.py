"""A cell whose steps are replayed one by one, for `sweep`: the way of cells of others'."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from ... import replays, sweep
from ...cells import AbstractCell, Function, probes
from ...tape import Tape

__all__ = ["Replaying"]

# After how many steps a `Function` is asked whether it repeated itself; that is a wait.
ASKED = 16
# Losses join a sweep one by one, and a recording has one shape. So a small delta is filled up with
# zeros to that of all losses: the device has room for them, and the launches are what counts.
SMALL = 1 << 20


class Replaying:
    """Stands in for a cell in `sweep`: its step and its step back are replayed where they can be.

    Attributes:
        cell: the recurrence.
        reason: why some steps were not replayed; "" if nothing hindered it.
    """

    def __init__(self, cell: AbstractCell, device: torch.device, losses: int = 1) -> None:
        """Begin a sweep.

        Args:
            cell: the recurrence.
            device: where it runs.
            losses: how many are sent back at most.
        """
        self.cell, self._kept = cell, ()
        self.state_size, self.hidden_size = cell.state_size, cell.hidden_size
        self._forward = replays.replayed(cell, "step", self._take, device)
        back = self._pull if isinstance(cell, Function) else self._send
        self._back = replays.replayed(cell, "vjp", back, device)
        self._losses, self._steps_back = losses, 0

    def drive(self, x: Tensor) -> Tensor:
        """Return what of the steps does not depend on the state."""
        return self.cell.drive(x)

    def vjp(self, saved: tuple[Tensor, ...], delta: Tensor) -> tuple[Tensor, Tensor]:
        """Go one step back, as ever."""
        return self.cell.vjp(saved, delta)

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
        if self._forward is None or self._forward.reason:
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

    def swept(self, tape: Tape) -> Callable[[int, Tensor], tuple[Tensor, Tensor]]:
        """Return the step back, by step."""
        if self._back is None:
            return self.cell.swept(tape)
        each = list(zip(*(kept.unbind(0) for kept in tape.saved), strict=True))
        return lambda t, delta: self._step_back(each[t - 1], delta)

    def _step_back(self, saved: tuple[Tensor, ...], delta: Tensor) -> tuple[Tensor, Tensor]:
        assert self._back is not None
        n, (B, S) = len(delta), delta.shape[1:]
        if self._back.reason or (n < self._losses and self._losses * B * S > SMALL):
            return self.cell.vjp(saved, delta)
        whole = delta if n == self._losses else pad(delta, (0, 0, 0, 0, 0, self._losses - n))
        delta_prev, adjoint, *again = self._back(whole, *saved)
        assert delta_prev is not None and adjoint is not None
        if again and again[0] is not None and self._steps_back % ASKED == 0:
            probes.check_repeats(again[0], saved[2], saved[1])
        self._steps_back += 1
        return delta_prev[:n].clone(), adjoint[:n]

    def _send(self, delta: Tensor, *saved: Tensor) -> replays.Tensors:
        result = self.cell.vjp(saved, delta)
        sweep.check_result(self.cell, "vjp", result, delta.shape, "J_tᵀ delta", "the adjoint")
        return result

    def _pull(self, delta: Tensor, *saved: Tensor) -> replays.Tensors:
        return self.cell.pulled(saved, delta)  # pyright: ignore[reportCallIssue]
