"""Backpropagation through time as one autograd node, whatever the number of steps."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .. import kernels, sweep
from ..cells.base import AbstractCell, rebind
from ..errors import UnsupportedError
from ..schedule import Checkpointed, Full, Schedule, Truncated
from ..tape import Tape
from .grads import batched_grads, grads, grads_of_one, is_batched
from .plan import plan
from .scheduled import checkpointed, forward_keeping, truncated

__all__ = ["FULL", "Call", "Recording", "bptt"]

FULL = Full()


class Switch:
    """How the recorded runs let gradients through, in an object of its own.

    The runs' autograd nodes hold this and not the recording: the recording holds the runs, and no
    collector looks for a cycle through autograd's graph.
    """

    cut = False
    exact = False


@dataclass
class Recording:
    """What a trace collects: every run of a recurrent layer, in the order in which they ran.

    Attributes:
        calls: the runs.
        switch: while ``switch.cut``, no gradient passes through any recorded run, so that what
            arrives at its outputs is the direct part g alone (eq. 9).
            While ``switch.exact`` all of it passes, whatever a schedule leaves out in training.
        anchor: requires grad, so that outputs do too where every parameter is frozen.
    """

    calls: list[Call] = field(default_factory=list)
    switch: Switch = field(default_factory=Switch)
    anchor: Tensor = field(default_factory=lambda: torch.zeros((), requires_grad=True))


@dataclass
class Call:
    """One run of one layer in one direction.

    Attributes:
        name: the layer's name in the flow.
        cell: the recurrence, over copies of the weights as they were.
        tape: what the forward sweep kept.
        x: the input as the graph knows it (T, B, I).
        s_0: the initial state as the graph knows it (B, S).
        h: the output (T, B, H).
        s_T: the final state (B, S).
        inner: whether ``x`` comes from the layer below in the same module.
        reverse: whether its step 1 is the input's last.
        through: the schedule that the layer is trained under.
    """

    name: str
    cell: AbstractCell
    tape: Tape
    x: Tensor
    s_0: Tensor
    h: Tensor
    s_T: Tensor
    inner: bool
    reverse: bool
    through: Schedule = FULL


class Shown(NamedTuple):
    """An output that is the tape's states: whoever writes into it in place takes them away.

    That is allowed, as with ``torch.nn``, and noticed: the way back then runs forward once more.

    Attributes:
        h: the output without its graph; it counts the same writes.
        version: the count when it was put out.
    """

    h: Tensor
    version: int

    @classmethod
    def of(cls, h: Tensor, tape: Tape | None) -> Shown | None:
        """Give the output to be watched; None where it has memory of its own."""
        if tape is None or h.untyped_storage().data_ptr() != tape.s.untyped_storage().data_ptr():
            return None
        return cls(h.detach(), h._version)

    def changed(self) -> bool:
        """Say whether anything was written into the output since."""
        return self.h._version != self.version


class BPTT(torch.autograd.Function):
    """Exact BPTT: the forward sweep, and the backward sweep as its gradient (eq. 1, 9, 5)."""

    @staticmethod
    def forward(ctx, cell, active, reset, through, switch, keep, x, s_0, anchor, *weights):
        """Run the sweep: h (T, B, H), s_T (B, S)."""
        del anchor
        ctx.cell, ctx.active, ctx.reset, ctx.switch = cell, active, reset, switch
        ctx.through, ctx.tape, ctx.kept, ctx.shown = through, None, None, None
        ctx.set_materialize_grads(False)
        with _own_precision(x):
            if isinstance(through, Checkpointed) and switch is None:
                how = plan(through, cell, x, s_0)
                kept = forward_keeping(how, cell, x, s_0, active, reset)
                h, s_T, ctx.kept = kept.h, kept.s_T, (how, kept.stretches)
                saved = (kept.states,)
            else:
                h, s_T, tape = kernels.outputs(cell, x, s_0, active, reset, keep=keep)
                ctx.tape = tape if switch is not None else None
                saved = () if tape is None else (tape.s, *tape.saved)
                ctx.shown = Shown.of(h, tape)
        if keep:
            ctx.save_for_backward(x, s_0, *weights, *saved)
        return h, s_T

    @staticmethod
    def backward(ctx, g_h, g_s):  # pyright: ignore[reportIncompatibleMethodOverride]
        """Run the sweep back: gradients of x, s_0 and the weights."""
        nothing = (None,) * len(ctx.needs_input_grad)
        if (ctx.switch is not None and ctx.switch.cut) or (g_h is None and g_s is None):
            return nothing
        x, s_0, *rest = ctx.saved_tensors
        own = ctx.cell.weights()
        weights = dict(zip(own, rest, strict=False))
        same = all(weight is rest[i] for i, weight in enumerate(own.values()))
        cell = ctx.cell if same else rebind(ctx.cell, weights)
        if torch.is_grad_enabled():
            return _differentiable_grads(ctx, cell, x, s_0, g_h, g_s)
        needs_x, needs_s0, _, *needs_weights = ctx.needs_input_grad[6:]
        needs = (needs_x, needs_s0, *needs_weights)
        tape, one = _way_back(ctx, cell, x, s_0, rest[len(own) :])
        with _own_precision(x):
            if is_batched(g_h) or is_batched(g_s):
                inputs = (x, s_0, *weights.values())
                shapes = [i.shape if n else None for i, n in zip(inputs, needs, strict=True)]
                back = partial(grads, cell, tape, needs, one=one)
                found = batched_grads(back, g_h, g_s, shapes)
            else:
                found = grads_of_one(cell, tape, needs, g_h, g_s, one)
        g_x, g_s0, *g_weights = found
        return (*(None,) * 6, g_x, g_s0, None, *g_weights)


def _way_back(ctx, cell: AbstractCell, x: Tensor, s_0: Tensor, saved: list[Tensor]):
    """Give the tape, and one loss's way back over it where a schedule says which it is."""
    if ctx.kept is not None:
        how, stretches = ctx.kept
        tape = Tape(x, s_0[None], (), ctx.active, ctx.reset)
        return tape, partial(checkpointed, how, cell, tape, stretches, [s_0, *saved[0]])
    if ctx.shown is not None and ctx.shown.changed():
        tape = kernels.forward(cell, x, s_0, ctx.active, ctx.reset)
    else:
        tape = Tape(x, saved[0], tuple(saved[1:]), ctx.active, ctx.reset)
    exact = ctx.switch is not None and ctx.switch.exact
    if isinstance(ctx.through, Truncated) and not exact:
        return tape, partial(truncated, ctx.through, cell, tape)
    return tape, None


def _own_precision(x: Tensor) -> AbstractContextManager[object]:
    """Switch autocast off, which the meta device does not know."""
    if x.is_meta or not torch.is_autocast_enabled(x.device.type):
        return nullcontext()
    return torch.autocast(x.device.type, enabled=False)


def _differentiable_grads(ctx, cell: AbstractCell, x: Tensor, s_0: Tensor, g_h, g_s):
    """Give the gradients as differentiable functions, through an unrolled graph.

    This is what ``create_graph=True`` asks for: second derivatives, at the price of autograd.
    """
    _refuse_truncation(ctx.through)
    h, s_T = sweep.unroll(cell, x, s_0, ctx.active, ctx.reset)
    outputs = [(o, g) for o, g in ((h, g_h), (s_T, g_s)) if g is not None]
    inputs = [x, s_0, *cell.weights().values()]
    needs = [*ctx.needs_input_grad[6:8], *ctx.needs_input_grad[9:]]
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
    return (*(None,) * 6, g_x, g_s0, None, *g_weights)


def bptt(
    cell: AbstractCell,
    x: Tensor,
    s_0: Tensor,
    active: Tensor | None = None,
    reset: Tensor | None = None,
    *,
    through: Schedule = FULL,
    recording: Recording | None = None,
    name: str = "",
    inner: bool = False,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """Run one layer in one direction, differentiably by exact BPTT.

    Args:
        cell: the recurrence.
        x: inputs (T, B, I).
        s_0: the initial state (B, S).
        active: (T, B) bool; rows that are False keep their state and put out 0.
        reset: (T, B) bool, within ``active``; where True the state is zeroed before the step.
        through: which steps are kept, recomputed or cut on the way back.
        recording: where a trace collects this run.
        name: the layer's name in the flow.
        inner: whether ``x`` comes from the layer below in the same module.
        reverse: whether the caller turned time around.

    Returns:
        h (T, B, H) and s_T (B, S).

    Cost:
        two sweeps; memory T·B·(S + what the cell saves), no autograd graph of the steps.
    """
    weights = cell.weights()
    if recording is None and _is_transformed((x, s_0, *weights.values())):
        _refuse_truncation(through)
        return sweep.unroll(cell, x, s_0, active, reset)
    anchor = None if recording is None else recording.anchor
    switch = None if recording is None else recording.switch
    inputs = (x, s_0, anchor, *weights.values())
    keep = torch.is_grad_enabled() and any(i is not None and i.requires_grad for i in inputs)
    h, s_T = BPTT.apply(cell, active, reset, through, switch, keep, *inputs)  # pyright: ignore[reportGeneralTypeIssues]
    if recording is not None:
        node = h.grad_fn
        if node is not None and node.tape is not None:
            copies = {n: w.detach().clone() for n, w in weights.items()}
            t = node.tape
            bare = Tape(t.x.detach().clone(), t.s, t.saved, active, reset)
            tape = kernels.complete(cell, bare)
            node.tape = None
            recording.calls.append(
                Call(
                    _numbered(name, recording),
                    rebind(cell, copies),
                    tape,
                    x,
                    s_0,
                    h,
                    s_T,
                    inner,
                    reverse,
                    through,
                )
            )
            # What is written into the output in place must not change what was recorded.
            return h.clone(), s_T.clone()
    return h, s_T


def _refuse_truncation(through: Schedule) -> None:
    if isinstance(through, Truncated):
        raise UnsupportedError(
            "second derivatives, torch.func and forward mode are taken of the exact recurrence, "
            f"which {through} is not; call tt.set_through(model, tt.Full()) for them."
        )


def _is_transformed(inputs: tuple[Tensor, ...]) -> bool:
    """Say whether `torch.func` or forward mode is at work, which want operations they can see."""
    # torch has no public question for the first; torch.autograd.Function asks the same one.
    if torch._C._are_functorch_transforms_active():
        return True
    if forward_ad._current_level < 0:
        return False
    return any(forward_ad.unpack_dual(i).tangent is not None for i in inputs)


def _numbered(name: str, recording: Recording) -> str:
    """Give a layer's second run its own name: ``l0``, then ``l0@2`` and so on."""
    taken = {call.name for call in recording.calls}
    runs = 1
    numbered = name
    while numbered in taken:
        runs += 1
        numbered = f"{name}@{runs}"
    return numbered
