"""One layer in one direction, differentiably by exact BPTT."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import sweep
from ..cells.base import AbstractCell, rebind
from ..kernels import Prepared, by_row
from ..schedules import FULL, AbstractSchedule
from ..schedules.base import check_schedule
from ..tape import Tape, complete, joined, split
from ..torch_state import is_jit_traced, is_transformed, only_maps
from .bptt import BPTT, NodeCall, begin, own_precision, refuse_truncation
from .gradients import keep as run_forward
from .jit_trace import held_to_its_steps, refuse_a_tracer
from .recording import Call, Gate, Key, Recording

__all__ = ["bptt", "bptt_prepared"]


def bptt(
    cell: AbstractCell,
    x: Tensor,
    s_0: Tensor | None = None,
    active: Tensor | None = None,
    reset: Tensor | None = None,
    *,
    through: AbstractSchedule = FULL,
    recording: Recording | None = None,
    name: str = "",
    inner: bool = False,
    reverse: bool = False,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run one layer in one direction, differentiably by exact BPTT.

    Args:
        cell: the recurrence.
        x: inputs (T, B, I).
        s_0: the initial state (B, S); None: zeros.
        active: (T, B) bool; rows that are False keep their state and output 0.
        reset: (T, B) bool, within ``active``; where True the state is zeroed before the step.
        through: which steps are kept, recomputed or cut on the backward pass.
        recording: what a trace collects this run in; None outside a trace.
        name: the layer's name in the flow.
        inner: whether ``x`` comes from the layer below in the same module.
        reverse: whether the caller reversed time.

    Returns:
        h (T, B, H), and s_T by the cell's parts, each (1, B, ·).

    Raises:
        UnsupportedError: the schedule cuts what second derivatives and transforms need; or
            `torch.onnx.export` with ``dynamo=False`` is at work, or `torch.jit.trace` within
            `tt.trace`.

    Cost:
        two sweeps; memory T·B·(S + what the cell saves), no autograd graph of the steps.
    """
    weights = cell.weights()
    if through is not FULL:
        check_schedule(through)
    if recording is not None:
        refuse_a_tracer()
        anchor, gate = recording.anchor, Gate(recording.switch, Key("layer", name))
        s_0 = begin(cell, x) if s_0 is None else s_0
    else:
        anchor = gate = None
        if is_transformed((x, s_0, *weights.values())):
            if torch.is_grad_enabled() or not only_maps():
                refuse_truncation(through)
            if is_jit_traced():
                x = held_to_its_steps(x)
            with own_precision(x):
                s_0 = begin(cell, x) if s_0 is None else s_0
                h, s_T = sweep.unroll(cell, x, s_0, active, reset)
            return h, split(s_T, cell.parts())
    inputs = (x, s_0, anchor, *weights.values())
    keep = torch.is_grad_enabled() and any(i is not None and i.requires_grad for i in inputs)
    if not keep and recording is None:
        with own_precision(x):
            found = run_forward(FULL, cell, x, s_0, active, reset, wanted=False, states=False)
            return found[:2]
    rows = by_row.of_call(weights.values()) if keep and by_row.CALLS else None
    run = NodeCall(cell, active, reset, through, gate, keep, rows=rows)
    h, *parts = BPTT.apply(run, *inputs)  # pyright: ignore[reportGeneralTypeIssues]
    if recording is not None:
        assert s_0 is not None and gate is not None
        s_T = joined(tuple(parts))
        node = h.grad_fn
        if node is not None and node.tape is not None:
            copies = {n: recording.copy(w) for n, w in weights.items()}
            t = node.tape
            masks = (None if m is None else m.clone() for m in (active, reset))
            bare = Tape(t.x.detach().clone(), t.s, t.saved, *masks)
            tape = complete(cell, bare)
            node.tape = None
            call = Call(
                Key("layer", name),
                gate,
                rebind(cell, copies),
                tape,
                x,
                s_0,
                h,
                s_T,
                inner,
                reverse,
                through,
                {n: w for n, w in weights.items() if w.grad_fn is not None},
            )
            recording.add(call, x)
            # Writing into the output in place must not change what was recorded.
            return h.clone(), split(s_T, cell.parts())
    return h, tuple(parts)


# What `torch.autograd.Function.apply` does when no transform is at work, which was checked before.
_apply = super(torch.autograd.Function, BPTT).apply  # pyright: ignore[reportAttributeAccessIssue]


def bptt_prepared(
    prepared: Prepared,
    x: Tensor,
    s_0: Tensor | None,
    lengths: Any,
    mask: Callable[[], Tensor] | None,
    reset: Tensor | None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Do what `bptt` does, where prepared sweeps are known to take ``x``.

    Args:
        prepared: the sweeps, over the weights as they are now.
        x: inputs (T, B, I), under no transform and no tracer.
        s_0: the initial state (B, S), as ``prepared`` has it; None: zeros.
        lengths: how many steps each row takes, as ``prepared`` has them; None: all T.
        mask: returns the lengths as ``active`` (T, B).
        reset: (T, B) bool, True where the state is zeroed before the step, or None.

    Returns:
        h (T, B, H), and s_T by the cell's parts, each (1, B, ·).
    """
    weights = prepared.weights
    inputs = (x, s_0, *weights)
    keep = torch.is_grad_enabled() and any(i is not None and i.requires_grad for i in inputs)
    if not keep:
        return prepared.forward(x, s_0, lengths, reset, keep=False)[:2]
    rows = by_row.of_call(weights) if by_row.CALLS else None
    run = NodeCall(prepared.cell, None, reset, FULL, None, True, prepared, lengths, mask, rows)
    h, *parts = _apply(run, x, s_0, None, *weights)
    return h, tuple(parts)
