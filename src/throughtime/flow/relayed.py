"""The flow of a trace whose runs cannot each be swept in one piece: a decoder that hears itself."""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter

import torch
from torch import Tensor

from ..errors import ThroughTimeError
from ..node.recording import Recording
from .direct import Direct, arrivals, attribute
from .layout import Layout
from .relay import Entries, Relay
from .run_flow import AxisFlow, RunFlow
from .segments import Back, Segment
from .source import Source
from .windows import Sample, chosen, chunks, leave_out

__all__ = ["relayed"]


def relayed(
    recording: Recording,
    layout: Layout,
    losses: Tensor,
    entering: list[Tensor],
    window: int | None,
    every: int | None,
    memory: int,
    per_row: bool,
    sample: Sample | None = None,
) -> list[RunFlow]:
    """Return the flow of each run; `Trace.flow` says what the arguments are."""
    with torch.no_grad():
        relay, wholes = Relay(recording, layout), _wholes(layout)
        summed = arrivals(recording, losses, torch.ones_like(losses), wholes, cut=True)
        total = Entries(layout, [None if g is None else g[None] for g in summed], 1)
        source = Source(relay, losses, total)
        if losses.dim() == 0:
            found = [
                _by_step(relay, r, g, every, window, memory, sample) for r, g in enumerate(entering)
            ]
        else:
            found = _by_loss(source, every, window, memory, per_row)
    split = "step" if losses.dim() == 0 else "loss"
    return [
        flow_class(layout, r)(source, r, norms, which, enters, g, entries, split)
        for r, (g, (norms, which, enters, entries)) in enumerate(zip(entering, found, strict=True))
    ]


def flow_class(layout: Layout, r: int) -> type[RunFlow]:
    """Return what a run's flow is."""
    return AxisFlow if layout.runs[r].key.kind == "axis" else RunFlow


def _wholes(layout: Layout) -> list[Segment]:
    """Return each run as one segment, and then the states that runs began from."""
    return [*layout.wholes, *(layout.segments[u] for u in layout.begins)]


# How many losses are sent through the whole graph at a time.
TOGETHER = 16

Found = tuple[Tensor, Tensor, Tensor, "Entries"]


def _by_step(
    relay: Relay,
    r: int,
    g: Tensor,
    every: int | None,
    window: int | None,
    memory: int,
    sample: Sample | None,
) -> Found:
    """Split a scalar loss by the step at which its gradient enters run r."""
    layout, (T, B, _) = relay.layout, g.shape
    steps = torch.arange(T, device=g.device)
    parts: list[Direct | Tensor | None] = [None] * len(_wholes(layout))
    there = (g != 0).any(-1)
    parts[r] = Direct(g, torch.where(there, steps[:, None].expand(T, B), -1))
    entries = Entries(layout, parts, T)
    which = chosen(T, every, g.device) if sample is None else sample.steps_of(there)
    enters = torch.where(there, steps[:, None] + 1, 0)[which]
    (norms,) = _norms(relay, [r], entries, which, memory)
    return leave_out(None, norms, enters, window), which, enters, entries


def _by_loss(
    source: Source,
    every: int | None,
    window: int | None,
    memory: int,
    per_row: bool,
) -> list[Found]:
    """Split by the entries of a vector of losses."""
    relay, losses, V = source.relay, source.losses, source.losses.numel()
    recording, layout = relay.recording, relay.layout
    wholes = _wholes(layout)
    directs = attribute(recording, losses, wholes, per_row)
    parts: list[Direct | Tensor | None] = list(directs)
    if any(direct.owner is None for direct in directs):
        parts = list(_loss_by_loss(recording, losses, wholes))
    entries = Entries(layout, parts, V)
    which = chosen(V, every, losses.device)
    found = []
    # One loss is the sum, which has been sent back.
    sent = source.backs if V == 1 else None
    norms = _norms(relay, list(range(len(layout.runs))), entries, which, memory, sent)
    for run, own in zip(layout.wholes, norms, strict=True):
        enters = _last_reached(own)
        found.append((leave_out(run.cell, own, enters, window), which, enters, entries))
    return found


def _loss_by_loss(recording: Recording, losses: Tensor, wholes: list[Segment]) -> list[Tensor]:
    """Return what each loss sends straight into each run, (V, T, B, S).

    Several losses go together, unless that takes longer or an operation has no batching rule.

    Raises:
        RuntimeError: as `arrivals`.
    """
    V = losses.numel()
    laid = [run.tape.s.new_zeros(V, run.tape.T, run.tape.B, run.tape.s.shape[-1]) for run in wholes]
    seeds, first, at_once, alone = torch.eye(V, dtype=losses.dtype, device=losses.device), 0, 1, 0.0
    while first < V:
        last = min(V, first + at_once)
        began = perf_counter()
        try:
            found = arrivals(
                recording, losses, seeds[first:last] if at_once > 1 else seeds[first], wholes,
                cut=True, batched=at_once > 1,
            )  # fmt: skip
        except RuntimeError as error:
            if at_once == 1 or isinstance(error, ThroughTimeError):
                raise
            at_once, alone = 1, -1.0
            continue
        for own, g in zip(laid, found, strict=True):
            if g is not None:
                own[first:last, ..., : g.shape[-1]] = g
        # One alone, then some together; whichever took less by the loss goes on.
        took = (perf_counter() - began) / (last - first)
        if at_once == 1 and alone == 0.0:
            at_once, alone = TOGETHER, took
        elif at_once > 1 and took > alone:
            at_once, alone = 1, -1.0
        first = last
    return laid


def _norms(
    relay: Relay,
    runs: list[int],
    entries: Entries,
    which: Tensor,
    memory: int,
    sent: Mapping[int, Back] | None = None,
) -> list[Tensor]:
    """Return the norms of some runs, (V, T+1, B) each, with the losses in chunks."""
    layout = relay.layout
    at = {int(v): n for n, v in enumerate(which.tolist())}
    found = [
        layout.wholes[r].tape.s.new_zeros(
            len(which), layout.wholes[r].tape.T + 1, layout.wholes[r].tape.B
        )
        for r in runs
    ]
    begun = set(layout.begins.values())
    for norms, r in zip(found, runs, strict=True):
        if r not in begun and layout.segments[layout.parts[r][0]].cell is None:
            norms[:, 0] = torch.nan  # until the step that the run began with says otherwise

    def visit(u: int, losses: Tensor, back: Back) -> None:
        (r, steps), begins = entries.place[u], layout.begins.get(u)
        if (r if begins is None else begins) not in runs:
            return
        norms = found[runs.index(r if begins is None else begins)]
        rows = torch.tensor([at[v] for v in losses.tolist()], device=norms.device)
        if begins is not None:
            norms[rows, 0] = back.norms[:, 1]
            return
        norms[rows, steps.start + 1 : steps.stop + 1] = back.norms[:, 1:]
        if steps.start == 0 and r not in begun:
            norms[rows, 0] = back.norms[:, 0]

    for u, back in (sent or {}).items():
        visit(u, torch.zeros(1, dtype=torch.long, device="cpu"), back)
    for part in [] if sent else chunks(len(which), _bytes_per_loss(layout), memory):
        relay.send(entries, visit, which=which[part])
    return found


def _bytes_per_loss(layout: Layout) -> int:
    """Return the most that one loss needs at a time: what waits, and what leaves a segment."""
    sizes = [
        (s.tape.T * (s.tape.s[0].numel() * 8 + s.tape.x[0].numel())) * s.tape.s.element_size()
        for s in layout.segments
    ]
    waiting: set[int] = set()
    most = 0
    for u in reversed(range(len(sizes))):
        waiting.discard(u)
        waiting.update(layout.behind[u])
        most = max(most, sizes[u] + sum(sizes[w] for w in waiting) // 8)
    return most


def _last_reached(norms: Tensor) -> Tensor:
    """Return the last step from 1 on that each loss reaches, (V, B); 0: none."""
    k = torch.arange(norms.shape[1], device=norms.device)[None, :, None]
    reached = (norms != 0) & (k > 0)
    return (reached * k).amax(1)
