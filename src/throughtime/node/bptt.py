"""Backpropagation through time as one autograd node, whatever the number of steps."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from operator import is_not
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import sweep
from ..cells.base import AbstractCell, rebind
from ..errors import UnsupportedError
from ..kernels import Prepared
from ..kernels.by_row import Collector, on_behalf_of
from ..kernels.verbs import forward
from ..schedules import FULL, AbstractSchedule
from ..tape import filled, joined
from ..torch_state import is_autocast, is_batched, is_jit_traced
from .gradients import batched_gradients, keep, send_back
from .recording import Gate

__all__ = ["BPTT", "NodeCall", "begin", "own_precision", "refuse_truncation"]


class Shown(NamedTuple):
    """An output that shares memory with the tape's states, so that writing into it destroys them.

    That is allowed, as with ``torch.nn``, and noticed: the backward pass then runs forward again.

    Attributes:
        h: the output without its graph, with the same version counter.
        version: the counter's value when it was returned.
    """

    h: Tensor
    version: int

    def changed(self) -> bool:
        """Check whether anything has been written into the output since."""
        return self.h._version != self.version


class NodeCall(NamedTuple):
    """What one run of a layer needs besides the tensors that may require grad.

    Attributes:
        cell: the recurrence.
        active: (T, B) bool, or None.
        reset: (T, B) bool, or None.
        through: the schedule.
        gate: its switch in the recording that collects the run, or None.
        keep: whether the backward pass may be taken.
        prepared: sweeps over the whole input, if they are known to apply.
        lengths: how many steps each row takes, as ``prepared`` has them; None: all.
        mask: returns ``active`` for the lengths, for when the general backward pass is needed after
            all.
        rows: who asked for each row's share of the gradient in this call, or None.
    """

    cell: AbstractCell
    active: Tensor | None
    reset: Tensor | None
    through: AbstractSchedule
    gate: Gate | None
    keep: bool
    prepared: Prepared | None = None
    lengths: Any = None
    mask: Callable[[], Tensor] | None = None
    rows: Collector | None = None


class BPTT(torch.autograd.Function):
    """Exact BPTT: the forward sweep, and the backward sweep as its gradient (eq. 1, 9, 5)."""

    @staticmethod
    def forward(ctx, run: NodeCall, x, s_0, anchor, *weights):
        """Run the sweep: h (T, B, H), and the parts of s_T, each (1, B, ·)."""
        del anchor
        ctx.run, ctx.tape, ctx.shown, ctx.done = run, None, None, None
        ctx.set_materialize_grads(False)
        if run.prepared is not None:
            h, finals, saved, shared, ctx.done = run.prepared.forward(
                x, s_0, run.lengths, run.reset, keep=True
            )
            ctx.shown = Shown(h.detach(), 0) if shared else None
            ctx.save_for_backward(x, s_0, None, run.reset, *weights, *saved)
            return h, *finals
        through = run.through if run.gate is None else run.through.whole()
        with own_precision(x):
            h, finals, saved, shared = keep(
                through, run.cell, x, s_0, run.active, run.reset,
                wanted=run.keep, states=run.gate is not None,
            )  # fmt: skip
        if run.gate is not None and run.keep:
            ctx.tape = through.tape(x, s_0, saved, run.active, run.reset)
        ctx.shown = Shown(h.detach(), h._version) if shared else None
        if run.keep:
            # The masks too, so that a change to one before the backward pass is noticed.
            ctx.save_for_backward(x, s_0, run.active, run.reset, *weights, *saved)
        return h, *finals

    @staticmethod
    def backward(ctx, g_h, *g_finals):  # pyright: ignore[reportIncompatibleMethodOverride]
        """Run the sweep back: gradients of x, s_0 and the weights."""
        run: NodeCall = ctx.run
        cell, gate = run.cell, run.gate
        g_s = _joined(g_finals, cell)
        if (gate is not None and gate.cut) or (g_h is None and g_s is None):
            return (None,) * len(ctx.needs_input_grad)
        x, s_0, active, reset, *rest = ctx.saved_tensors
        rows = _asking(run)
        if run.prepared is not None:
            found = _prepared_grads(ctx, x, reset, rest, g_h, g_s) if rows is None else None
            if found is not None:
                return (None, *found[:2], None, *found[2:])
            if run.mask is not None:
                active = run.mask()
                n = len(cell.weights())
                rest[n:] = filled(rest[n:], active)
        own = cell.weights()
        if any(map(is_not, own.values(), rest)):  # a hook on saved tensors made copies
            cell = rebind(cell, dict(zip(own, rest, strict=False)))
        if torch.is_grad_enabled():
            return _differentiable_grads(ctx, cell, x, s_0, active, reset, g_h, g_s)
        through, kept = run.through, tuple(rest[len(own) :])
        if gate is not None:
            through = FULL if gate.exact else through.whole()
        needs = ctx.needs_input_grad[1:3] + ctx.needs_input_grad[4:]
        with own_precision(x), on_behalf_of(rows):
            if ctx.shown is not None and ctx.shown.changed():
                tape = forward(cell, x, kept[0].flatten(0, -3)[0], active, reset)
            else:
                tape = through.tape(x, s_0, kept, active, reset)
            if is_batched(g_h) or is_batched(g_s):
                inputs = (x, s_0, *rest[: len(own)])
                shapes = [i.shape if n else None for i, n in zip(inputs, needs, strict=True)]
                back = partial(send_back, through, cell, tape, needs)
                found = batched_gradients(back, cell, g_h, g_s, shapes)
            else:
                found = send_back(through, cell, tape, needs, g_h, g_s)
        return (None, *found[:2], None, *found[2:])


def _asking(run: NodeCall) -> Collector | None:
    """Return who asks for the rows' shares of this backward pass; a trace's own is none of it."""
    if run.rows is None or not run.rows.wanted() or (run.gate is not None and run.gate.exact):
        return None
    return run.rows


def _prepared_grads(ctx, x: Tensor, reset: Tensor | None, rest: list[Tensor], g_h, g_s):
    """Return the gradients of x, s_0 and the weights; None where that needs the general way."""
    if torch.is_grad_enabled() or (ctx.shown is not None and ctx.shown.changed()):
        return None
    needs = ctx.needs_input_grad[1:3] + ctx.needs_input_grad[4:]
    return ctx.run.prepared.back(ctx.done, (x, *rest), reset, g_h, g_s, needs)


def _joined(g_finals: tuple[Tensor | None, ...], cell: AbstractCell) -> Tensor | None:
    """Return what arrives at the final state, (B, S), from what arrives at its parts."""
    there = next((g for g in g_finals if g is not None), None)
    if there is None:
        return None
    widths = cell.parts()
    return joined(
        tuple(
            there.new_zeros(*there.shape[:-1], width) if g is None else g
            for g, width in zip(g_finals, widths, strict=True)
        )
    )


def begin(cell: AbstractCell, x: Tensor) -> Tensor:
    """Return the initial state (B, S) if none was given."""
    return x.new_zeros(x.shape[1], cell.state_size)


def own_precision(x: Tensor) -> AbstractContextManager[object]:
    """Switch autocast off, except on the meta device, which has none."""
    if not is_autocast(x):
        return nullcontext()
    return torch.autocast(x.device.type, enabled=False)


def _differentiable_grads(ctx, cell: AbstractCell, x: Tensor, s_0, active, reset, g_h, g_s):
    """Return the gradients as differentiable functions, through an unrolled graph.

    This is what ``create_graph=True`` asks for: second derivatives, at autograd's price.
    """
    needs = ctx.needs_input_grad[1:3] + ctx.needs_input_grad[4:]
    refuse_truncation(ctx.run.through)
    s_0 = begin(cell, x) if s_0 is None else s_0
    with own_precision(x):
        h, s_T = sweep.unroll(cell, x, s_0, active, reset)
    outputs = [(o, g) for o, g in ((h, g_h), (s_T, g_s)) if g is not None]
    inputs = [x, s_0, *cell.weights().values()]
    wanted = [i for i, needed in zip(inputs, needs, strict=True) if needed]
    if not wanted:
        return (None,) * len(ctx.needs_input_grad)
    grads = iter(
        torch.autograd.grad(
            [o for o, _ in outputs],
            wanted,
            [g for _, g in outputs],
            create_graph=True,
            allow_unused=True,
        )
    )
    g_x, g_s0, *g_weights = (next(grads) if needed else None for needed in needs)
    return (None, g_x, g_s0, None, *g_weights)


def refuse_truncation(through: AbstractSchedule) -> None:
    """Raise if the exact recurrence is asked for and the schedule cuts it.

    Raises:
        UnsupportedError: it does.
    """
    if not through.exact and is_jit_traced():
        raise UnsupportedError(
            f"torch.jit.trace records the exact recurrence, which {through} is not. Trace under "
            "torch.no_grad(), where the schedule plays no part, or call tt.set_through(model, "
            "tt.Full())."
        )
    if not through.exact:
        raise UnsupportedError(
            "second derivatives, torch.func and forward mode are taken of the exact recurrence, "
            f"which {through} is not; call tt.set_through(model, tt.Full()) for them."
        )
