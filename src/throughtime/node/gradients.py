"""The two halves of a layer's node: what its forward pass keeps, and the gradients from that.

Eager calls use them through `bptt.BPTT`, compiled ones through `compiled`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import compress, count

import torch
from torch import Tensor

from ..cells import Function
from ..cells.base import AbstractCell
from ..kernels.choose import choose, choose_back
from ..schedules import AbstractSchedule, Kept
from ..tape import Gradients, Tape, complete, taken

__all__ = ["batched_gradients", "keep", "send_back"]

Back = Callable[[Tensor | None, Tensor | None], list[Tensor | None]]


def keep(
    through: AbstractSchedule,
    cell: AbstractCell,
    x: Tensor,
    s_0: Tensor | None,
    active: Tensor | None,
    reset: Tensor | None,
    *,
    wanted: bool = True,
    states: bool = True,
) -> Kept:
    """Run a layer forward under a schedule (eq. 1).

    Args:
        through: the schedule.
        cell: the recurrence.
        x: inputs (T, B, I).
        s_0: the initial state (B, S); None: zeros.
        active: (T, B) bool, or None.
        reset: (T, B) bool, or None.
        wanted: whether the backward pass will be taken.
        states: whether somebody looks at single steps of what is kept.
    """
    states = states or through.looks_at_steps
    engine = choose(cell, x, s_0, active, reset, states=states)
    return through.outputs(engine, cell, x, s_0, active, reset, keep=wanted)


def send_back(
    through: AbstractSchedule,
    cell: AbstractCell,
    tape: Tape,
    needs: Sequence[bool],
    g_h: Tensor | None,
    g_s: Tensor | None,
) -> list[Tensor | None]:
    """Send V losses back and return the gradients that are wanted (eq. 9, 5).

    Args:
        through: the schedule.
        cell: the recurrence.
        tape: what the schedule kept, as its ``tape`` returns it.
        needs: whether the gradient of x, of s_0, and of each weight is wanted.
        g_h: what arrives at the outputs, (V, T, B, H), or (T, B, H) for one loss.
        g_s: what arrives at the final state, (V, B, S), likewise.

    Returns:
        The gradients of x (V, T, B, I), s_0 (V, B, S) and each weight (V, ·), or None; without
        the axis V if what arrives has none.
    """
    engine = choose_back(cell, tape, g_h, g_s)
    if tape.holds_graph and not engine.reads_graphs:
        tape = engine.forward(cell, tape.x, tape.s[0, 0], tape.active, tape.reset)
    names = list(cell.weights())
    wants = None if all(needs[2:]) else frozenset(compress(names, needs[2:]))

    def one(g_h: Tensor | None, g_s: Tensor | None) -> list[Tensor | None]:
        found = through.gradients(engine, cell, tape, g_h, g_s, wants=wants, want_x=needs[0])
        return _in_order(found, names, needs)

    alone = g_h.dim() == 3 if g_h is not None else g_s is not None and g_s.dim() == 2
    if alone:
        return one(g_h, g_s)
    V = len(g_h if g_h is not None else g_s)  # pyright: ignore[reportArgumentType]
    if V == 1 or not through.batches_losses:
        each = [one(*(None if g is None else g[v] for g in (g_h, g_s))) for v in range(V)]
        return [_together(list(parts)) for parts in zip(*each, strict=True)]
    if g_h is None:
        g_h = tape.s.new_zeros(1).expand(V, tape.T, tape.B, 1)
    tape = complete(cell, tape)
    adjoints, delta_0 = engine.backward(cell, tape, taken(g_h, tape.active), g_s)
    by_loss = [cell.param_grads(tape, adjoint) for adjoint in adjoints] if any(needs[2:]) else []
    return [
        cell.input_grad(adjoints) if needs[0] else None,
        delta_0 if needs[1] else None,
        *(
            torch.stack([by_name[name] for by_name in by_loss]) if need else None
            for name, need in zip(names, needs[2:], strict=True)
        ),
    ]


def _in_order(found: Gradients, names: Sequence[str], needs: Sequence[bool]) -> list[Tensor | None]:
    return [found.x, found.s_0 if needs[1] else None, *map(found.weights.get, names)]


def _together(parts: list[Tensor | None]) -> Tensor | None:
    """Return one gradient of V losses, (V, ·), or None if it was not wanted."""
    there = [part for part in parts if part is not None]
    if not there:
        return None
    return there[0][None] if len(there) == 1 else torch.stack(there)


# What the operation below runs, while it runs: vmap carries only tensors and numbers.
_RUNNING: dict[int, tuple[Back, AbstractCell]] = {}
_NUMBERS = count()

torch.library.define("throughtime::back", "(int sweep, Tensor? g_h, Tensor? g_s) -> Tensor")


@torch.library.impl("throughtime::back", "CompositeExplicitAutograd")
def _one(number: int, g_h: Tensor | None, g_s: Tensor | None) -> Tensor:
    back, _ = _RUNNING[number]
    return _flat(back(*(None if g is None else g[None] for g in (g_h, g_s))))[0]


def _all(info, in_dims, number: int, g_h: Tensor | None, g_s: Tensor | None):
    """Run all losses of a vmap in one sweep, as its axis V."""

    def leading(g: Tensor | None, dim: int | None) -> Tensor | None:
        if g is None:
            return None
        return g.expand(info.batch_size, *g.shape) if dim is None else g.movedim(dim, 0)

    back, cell = _RUNNING[number]
    g_h, g_s = leading(g_h, in_dims[1]), leading(g_s, in_dims[2])
    if not isinstance(cell, Function):
        return _flat(back(g_h, g_s)), 0
    # This cell calls autograd, which a thread refuses while a vmap is under way in it.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.no_grad()(lambda: _flat(back(g_h, g_s)))).result(), 0


torch.library.register_vmap("throughtime::back", _all)


def _flat(found: list[Tensor | None]) -> Tensor:
    return torch.cat([g.flatten(1) for g in found if g is not None], 1)


def batched_gradients(
    back: Back,
    cell: AbstractCell,
    g_h: Tensor | None,
    g_s: Tensor | None,
    shapes: Sequence[torch.Size | None],
) -> list[Tensor | None]:
    """Return what `send_back` returns, where vmap hides the axis V.

    Args:
        back: `send_back`, all but its last two arguments bound.
        cell: the recurrence.
        g_h: what arrives at the outputs, (T, B, H), with a batch hidden behind it.
        g_s: what arrives at the final state, likewise (B, S).
        shapes: the shape of each wanted gradient, None for the others.
    """
    number = next(_NUMBERS)
    _RUNNING[number] = back, cell
    try:
        flat = torch.ops.throughtime.back(number, g_h, g_s)
    finally:
        del _RUNNING[number]
    sizes = [shape.numel() for shape in shapes if shape is not None]
    pieces = iter(flat.split(sizes))
    return [None if shape is None else next(pieces).view(shape) for shape in shapes]
