"""Sweeps in plain torch that are replayed as a whole: those of the package's own cells."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from ... import cells, replays, sweep, torch_state
from ...cells import AbstractCell, Function
from ...cells.base import rebind
from ...tape import Tape

__all__ = ["Say", "recorded_backward", "recorded_forward", "run_recorded", "sweep_key"]

Say = Callable[[str], None]


def sweep_key(cell: AbstractCell) -> Hashable | None:
    """Return what a sweep of a cell depends on beside its weights; None for a cell of others'.

    Somebody's own class may depend on anything, and so may a cell with a method that somebody put
    in its place, so their sweeps are not recorded as a whole.

    Args:
        cell: the recurrence.
    """
    kind, own = type(cell), vars(cell)
    if kind is Function or getattr(cells, kind.__name__, None) is not kind:
        return None
    if any(map(callable, own.values())):
        return None
    told = sorted((k, v) for k, v in own.items() if isinstance(v, (bool, int, float, str)))
    return kind, tuple(told), tuple(cell.weights()), torch_state.rounding()


def run_recorded(
    key: Hashable | None,
    work: replays.Work,
    inputs: Sequence[Tensor | None],
    more: int,
    say: Say,
) -> replays.Tensors:
    """Do the work, as it was recorded where it is known and not too large.

    Args:
        key: what it depends on beside its inputs; None: nobody knows.
        work: takes and returns tensors.
        inputs: what it is called with.
        more: how many bytes it returns.
        say: is told why it was not recorded.
    """
    device = next(t.device for t in inputs if t is not None)
    why = "somebody's own cell may depend on anything." if key is None else ""
    why = why or replays.obstacle(device)
    done = replays.Done(work(*inputs), why) if why else replays.REPLAYS.run(key, work, inputs, more)
    if done.reason:
        say(done.reason)
    return done.tensors


def recorded_forward(
    cell: AbstractCell,
    x: Tensor,
    s_0: Tensor,
    active: Tensor | None,
    reset: Tensor | None,
    *,
    keep: bool,
    say: Say,
) -> Tape | None:
    """Run the recurrence over all steps as one recording; None for a cell of others'.

    Args:
        cell: the recurrence.
        x: inputs (T, B, I).
        s_0: the initial state (B, S).
        active: (T, B) bool, or None.
        reset: (T, B) bool, or None.
        keep: whether the backward pass will be taken.
        say: is told why it was not recorded.
    """
    key, names = sweep_key(cell), list(cell.weights())
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
        s, *saved = run_recorded(("forward", key, keep), work, given, size, say)
        assert s is not None
        tape = Tape(x, s, tuple(saved), active, reset)  # pyright: ignore
        if keep and widths is not None:
            tape = Tape(x, s, cell.with_states(tape), active, reset)
        return tape


def recorded_backward(
    cell: AbstractCell, tape: Tape, g: Tensor, delta_T: Tensor | None, say: Say
) -> tuple[Tensor, Tensor] | None:
    """Send V losses back in plain torch as one recording; None for a cell of others'.

    Args:
        cell: the recurrence.
        tape: what its forward sweep kept, complete.
        g: direct gradients (V, T, B, G).
        delta_T: what else arrives at s_T, (V, B, S), or None.
        say: is told why it was not recorded.
    """
    key, names, n = sweep_key(cell), list(cell.weights()), len(tape.saved)
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
        return run_recorded(("backward", key), work, given, size, say)  # pyright: ignore
