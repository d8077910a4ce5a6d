"""From a recording and its losses to the flow: direct parts, sweeps in chunks, norms."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..node.recording import Recording
from .cascade import Cascade, floor
from .direct import Direct, attribute, entering
from .flow import Flow
from .layer_flow import LayerFlow
from .layout import Layout, lay_out
from .pairs import sweep_losses
from .relayed import relayed
from .segments import Segment
from .windows import Sample, chosen, chunks, leave_out

__all__ = ["measure"]


def measure(
    recording: Recording,
    losses: Tensor,
    window: int | None,
    every: int | None,
    memory: int,
    per_row: bool,
    sample: Sample | None = None,
) -> tuple[Flow, Layout]:
    """Return the flow of checked losses, and how what was recorded was put in order.

    `Trace.flow` says what the arguments are.
    """
    layout = lay_out(recording)
    with torch.no_grad():
        g = entering(recording, losses, layout.wholes)
    if not layout.whole:
        layers = relayed(recording, layout, losses, g, window, every, memory, per_row, sample)
    elif losses.dim() == 0:
        layers = [
            _by_step(run, own, window, every, memory, sample)
            for run, own in zip(layout.wholes, g, strict=True)
        ]
    else:
        layers = _by_loss(recording, layout, losses, g, window, every, memory, per_row)
    # In the order in which the runs began, whatever hangs on what.
    split = "step" if losses.dim() == 0 else "loss"
    return Flow({layer.name: layer for layer in layers}, split, recording.skipped), layout


def _by_step(
    run: Segment,
    g: Tensor,
    window: int | None,
    every: int | None,
    memory: int,
    sample: Sample | None,
) -> LayerFlow:
    """Split a scalar loss by the step at which its gradient enters the layer."""
    T, B, _ = g.shape
    assert run.cell is not None
    steps = torch.arange(1, T + 1, device=g.device)
    direct = Direct(g, (steps - 1)[:, None].expand(T, B))
    there = (g != 0).any(-1)
    which = chosen(T, every, g.device) if sample is None else sample.steps_of(there)
    enters = torch.where(there, steps[:, None], 0)[which]
    norms = g.new_zeros(len(which), T + 1, B)
    apart = not run.cell.rows_depend and not run.cell.given
    rows = None if sample is None or not apart else sample.rows_of(there)
    if rows is None or len(rows) == B:
        tape, entering, rows = run.tape, g, slice(None)
    else:
        tape, entering = run.tape.of_rows(rows.tolist()), g[:, rows]
        followed = torch.zeros(B, dtype=torch.bool, device=g.device).index_fill_(0, rows, True)
        enters = enters * followed
    carried = B * (run.cell.state_size + run.cell.preact_size) * g.element_size()
    for part in chunks(len(which), carried, memory):
        entry = which[part] + 1
        lowest = floor(entry[:, None], window)
        norms[part, :, rows] = sweep_losses(run.cell, tape, entering, lowest, enters=entry).norms
    return LayerFlow(
        run,
        leave_out(run.cell, norms, enters, window),
        which,
        enters,
        g,
        direct.one,
        T,
        "step",
    )


def _by_loss(
    recording: Recording,
    layout: Layout,
    losses: Tensor,
    entering: list[Tensor],
    window: int | None,
    every: int | None,
    memory: int,
    per_row: bool,
) -> list[LayerFlow]:
    """Split by the entries of a vector of losses."""
    # Of a run that is whole its only segment is itself, so the sorted segments are the runs.
    runs, V = layout.segments, losses.numel()
    which = chosen(V, every, losses.device)
    cascade = Cascade(recording, runs, losses, attribute(recording, losses, runs, per_row))
    norms = [c.tape.s.new_empty(len(which), c.tape.T + 1, c.tape.B) for c in runs]
    enters = [
        torch.zeros(len(which), c.tape.B, dtype=torch.long, device=c.tape.s.device) for c in runs
    ]
    room = V * cascade.bytes_per_loss()
    kept: list[list[Tensor]] = [[] for _ in runs]
    for part in chunks(len(which), cascade.bytes_per_loss(), memory):
        some = which[part]
        g, swept, stands = cascade.run(some, cascade.direct(some), window)
        for i in range(len(runs)):
            norms[i][part] = swept[i].norms
            enters[i][part] = stands[i]
            if room <= memory and len(which) == V and window is None:
                kept[i].append(g[i])
    layers = []
    for run, (i,), g in zip(layout.wholes, layout.parts, entering, strict=True):
        left = leave_out(run.cell, norms[i], enters[i], window)
        g_of = _one_loss(cascade, i, kept[i])
        layers.append(LayerFlow(run, left, which, enters[i], g, g_of, V))
    return layers


def _one_loss(cascade: Cascade, i: int, kept: list[Tensor]) -> Callable[[int], Tensor]:
    """Return what enters call i from one loss: kept where it was small, else sent back again."""
    direct = cascade.directs[i]
    device = cascade.losses.device
    if direct.owner is not None and not any(cascade.joined[i + 1 :]):
        return direct.one
    if kept:
        return lambda loss: _among(kept, loss)

    def send_back(loss: int) -> Tensor:
        which = torch.tensor([loss], device=device)
        return cascade.run(which, cascade.direct(which))[0][i][0]

    return send_back


def _among(kept: list[Tensor], loss: int) -> Tensor:
    for part in kept:
        if loss < part.shape[0]:
            return part[loss]
        loss -= part.shape[0]
    raise IndexError(loss)
