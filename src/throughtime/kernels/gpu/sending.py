"""The sweep back over V losses as `Engine.losses` has it, on the kernel of a step back."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ... import sweep
from ...cells import GRU, LSTM, AbstractCell
from ...cells.base import rebind
from ...replays import Tensors
from ...tape import Tape
from ..engine import Losses
from ..plain.losses import Sorted
from .replayed_sweeps import Say, run_recorded, sweep_key
from .shape import Bound
from .two_launches import Course, send_losses

__all__ = ["Bound", "sent_back", "trial"]


def sent_back(
    cell: AbstractCell,
    tape: Tape,
    g: Tensor,
    delta_T: Tensor | None,
    sorted_: Sorted | None,
    bound: Bound,
    say: Say,
) -> Losses:
    """Send V losses back, two launches a step, recorded from the second sweep of a shape on.

    Args:
        cell: one with `factors`.
        tape: what its forward sweep kept, complete.
        g: direct gradients (V, T, B, G), or (T, B, G) with ``bound.lone``.
        delta_T: what else arrives at s_T, (V, B, S), or None.
        sorted_: between which steps the losses run; None: each takes all.
        bound: what is wanted.
        say: is told why it was not recorded.
    """
    T, B = tape.T, tape.B
    V = len(g) if sorted_ is None else len(sorted_.entries)
    course, bounds = Course((T,) * V, (0,) * V), (None, None)
    if sorted_ is not None:
        course = Course(tuple(sorted_.entries), tuple(sorted_.floors.tolist()))
        both = torch.tensor([course.entries, course.floors], dtype=torch.int32).to(g.device)
        bounds = both[0], both[1]
    names, key = list(cell.weights()), sweep_key(cell)
    work = partial(_work, cell, names, course, bound, len(tape.saved))
    row = bound.deltas * cell.state_size + bound.adjoints * cell.preact_size + bound.norms
    size = V * (T + 1) * B * row * g.itemsize
    g = g if g.stride(-1) == 1 else g.contiguous()
    given = (tape.active, tape.reset, g, None if delta_T is None else delta_T.contiguous())
    # Triton launches on the current device, which need not be the tensors'.
    with torch.no_grad(), torch.cuda.device_of(g):
        whole = None if key is None else ("sent back", key, course, bound)
        found = run_recorded(
            whole, work, (*given, *bounds, *tape.saved, *cell.weights().values()), size, say
        )
    adjoints, deltas, norms, s_0 = found
    assert s_0 is not None
    done = Losses(norms, deltas, adjoints, s_0)
    if sorted_ is None or sorted_.back is None:
        return done
    back = sorted_.back.to(s_0.device)
    return Losses(*(None if part is None else part[back] for part in done))  # pyright: ignore


def _work(
    cell: AbstractCell, names: list[str], course: Course, bound: Bound, kept: int, *inputs: Any
) -> Tensors:
    active, reset, g, delta_T, entries, floors, *rest = inputs
    saved, weights = tuple(rest[:kept]), rest[kept:]
    own = rebind(cell, dict(zip(names, weights, strict=True)))
    factors = own.factors(Tape(saved[0], saved[0], saved, active, reset))
    assert factors is not None
    return send_losses(factors, (active, reset), g, delta_T, (entries, floors), course, bound)


def trial(device: torch.device) -> str:
    """Return why a first sweep back on a device failed or was wrong; "" if it went well.

    Args:
        device: where it runs.
    """
    for kind in (GRU, LSTM):
        cell = kind(2, 17, device=device)
        x = torch.linspace(-1, 1, 30, device=device).view(5, 3, 2)
        with torch.no_grad():
            for weight in cell.weights().values():
                spread = torch.linspace(-0.3, 0.3, weight.numel(), device=device)
                weight.copy_(spread.view_as(weight))
            tape = sweep.forward(cell, x, x.new_zeros(3, cell.state_size))
            g = torch.linspace(-1, 2, 5 * 3 * 17, device=device).view(1, 5, 3, 17)
            try:
                found = sent_back(cell, tape, g, None, None, Bound(), lambda why: None)
                got = found.adjoints, found.s_0
            except Exception as error:  # whatever Triton, its compiler or the driver raises
                told = str(error).strip().splitlines()
                return f"Triton fails on {device}: {type(error).__name__}: {(told or [''])[0]}"
            want = sweep.backward(cell, tape, g)
            pairs = zip(got, want, strict=True)
            apart = max(float((a - b).abs().max()) for a, b in pairs if a is not None)
        if not apart < 1e-2:  # TF32 rounds to 10 bits
            return f"a first fused sweep on {device} was wrong by {apart:.1g}."
    return ""
