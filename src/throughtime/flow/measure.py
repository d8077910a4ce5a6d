"""From a recording and its losses to the flow: direct parts, sweeps in chunks, norms."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..cells.base import AbstractCell
from ..node.recording import Call, Recording
from .cascade import Cascade, floor
from .direct import Direct, attribute, total
from .flow import Flow
from .layer_flow import LayerFlow
from .pairs import sweep_losses

__all__ = ["measure"]


def measure(
    recording: Recording,
    losses: Tensor,
    window: int | None,
    every: int | None,
    memory: int,
    per_row: bool,
) -> Flow:
    """Return the flow of checked losses; `Trace.flow` says what the arguments are."""
    with torch.no_grad():
        entering = total(recording, losses)
    if losses.dim() == 0:
        layers = [
            _by_step(call, g, window, every, memory)
            for call, g in zip(recording.calls, entering, strict=True)
        ]
    else:
        layers = _by_loss(recording, losses, entering, window, every, memory, per_row)
    return Flow({layer.name: layer for layer in layers}, "step" if losses.dim() == 0 else "loss")


def _chosen(V: int, every: int | None, device: torch.device) -> Tensor:
    """Return one of every so many losses, counted from the last one."""
    return torch.arange(V - 1, -1, -(every or 1), device=device).flip(0)


def _leave_out(cell: AbstractCell, norms: Tensor, enters: Tensor, window: int | None) -> Tensor:
    """Mark what lies beyond the window as not measured."""
    if window is not None:
        k = torch.arange(norms.shape[1], device=norms.device)[None, :, None]
        # A row that a loss does not read may be reached by way of other rows (statistics over the
        # batch, rows that change places). It is followed no further than they are.
        reached = (norms != 0).any(1)
        if cell.rows_depend:
            reached = torch.ones_like(reached)
        by_others = (enters == 0) & reached
        stands = torch.where(by_others, enters.amax(1, keepdim=True), enters)
        norms.masked_fill_(k < stands[:, None, :] - window, torch.nan)
    return norms


def _by_step(
    call: Call, g: Tensor, window: int | None, every: int | None, memory: int
) -> LayerFlow:
    """Split a scalar loss by the step at which its gradient enters the layer."""
    T, B, _ = g.shape
    steps = torch.arange(1, T + 1, device=g.device)
    direct = Direct(g, (steps - 1)[:, None].expand(T, B))
    which = _chosen(T, every, g.device)
    enters = torch.where((g != 0).any(-1), steps[:, None], 0)[which]
    norms = g.new_empty(len(which), T + 1, B)
    carried = B * (call.cell.state_size + call.cell.preact_size) * g.element_size()
    for part in _chunks(len(which), carried, memory):
        entry = which[part] + 1
        lowest = floor(entry[:, None], window)
        norms[part] = sweep_losses(call.cell, call.tape, g, lowest, enters=entry).norms
    return LayerFlow(
        call,
        _leave_out(call.cell, norms, enters, window),
        which,
        enters,
        g,
        direct.one,
        T,
        "step",
    )


def _by_loss(
    recording: Recording,
    losses: Tensor,
    entering: list[Tensor],
    window: int | None,
    every: int | None,
    memory: int,
    per_row: bool,
) -> list[LayerFlow]:
    """Split by the entries of a vector of losses."""
    calls, V = recording.calls, losses.numel()
    cascade = Cascade(recording, losses, attribute(recording, losses, per_row))
    which = _chosen(V, every, losses.device)
    norms = [c.tape.s.new_empty(len(which), c.tape.T + 1, c.tape.B) for c in calls]
    enters = [
        torch.zeros(len(which), c.tape.B, dtype=torch.long, device=c.tape.s.device) for c in calls
    ]
    room = V * cascade.bytes_per_loss()
    kept: list[list[Tensor]] = [[] for _ in calls]
    for part in _chunks(len(which), cascade.bytes_per_loss(), memory):
        chosen = which[part]
        direct = cascade.direct(chosen)
        g, swept, stands = cascade.run(chosen, direct, window)
        for i in range(len(calls)):
            norms[i][part] = swept[i].norms
            enters[i][part] = stands[i]
            if room <= memory and every is None and window is None:
                kept[i].append(g[i])
    layers = []
    for i, call in enumerate(calls):
        g_of = _one_loss(cascade, i, kept[i])
        layers.append(
            LayerFlow(
                call,
                _leave_out(call.cell, norms[i], enters[i], window),
                which,
                enters[i],
                entering[i],
                g_of,
                V,
            )
        )
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


def _chunks(V: int, bytes_per_loss: int, memory: int) -> list[slice]:
    """Return slices of the losses that fit into ``memory`` together."""
    size = max(1, memory // max(1, bytes_per_loss))
    return [slice(first, min(first + size, V)) for first in range(0, V, size)]
