"""Calls that continue each other as they are, over one tape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..cells.base import AbstractCell
from ..cells.probes import alike
from ..kernels.verbs import forward
from ..node.recording import Recording
from ..tape import Tape, complete
from .ancestry import Ancestry
from .direct import arrivals
from .joined import JoinedSegment
from .runs import Run, given_state, left_state
from .segments import Segment
from .step_segments import StepSegment

__all__ = ["direct_boundaries", "join", "laid_out", "same_weights"]


def direct_boundaries(
    recording: Recording, runs: Sequence[Run], pieces: dict[int, Segment], ancestry: Ancestry
) -> dict[str, list[bool]]:
    """Return by run whether each of its calls begins from the state that the one before left.

    Rows whose state was zeroed in between count too. Random gradients are sent over all such
    places in one backward pass that stops at recorded states: each must arrive as it left, and
    other states that the place seems to hang on must get no more than their own.

    Args:
        recording: the trace's.
        runs: of it.
        pieces: each call as a segment.
        ancestry: of the calls.
    """
    direct = {run.name: [False] * len(run.numbers) for run in runs}
    asked: list[tuple[str, int, int, int]] = []
    for run in runs:
        for place, (last, number) in enumerate(zip(run.numbers, run.numbers[1:], strict=False), 1):
            if run.cut[place] or not _alike(pieces[last], pieces[number]):
                continue
            state = given_state(recording.calls[number])
            if [ancestry.direct(part) for part in state] == [(last, n) for n in range(len(state))]:
                direct[run.name][place] = type(pieces[last]) is StepSegment
            if not direct[run.name][place]:
                asked.append((run.name, place, last, number))
    others = [_others(recording, pieces, ancestry, last, number) for _, _, last, number in asked]
    at = list(dict.fromkeys((*(last for _, _, last, _ in asked), *(n for o in others for n in o))))
    sent, found = _arrivals(recording, pieces, asked, at)
    expected: dict[int, Tensor] = {}
    for (_, _, last, number), seed in zip(asked, sent, strict=True):
        zeroed = (pieces[number].tape.s[0] == 0).all(-1)
        expected[last] = torch.where(zeroed[:, None], 0, seed)
    own = {n: _as_sent(found[n], expected.get(n)) for n in at}
    for (name, place, last, number), beside in zip(asked, others, strict=True):
        zeroed = (pieces[number].tape.s[0] == 0).all(-1)
        began = torch.where(zeroed[:, None], 0, left_state(recording.calls[last]))
        direct[name][place] = (
            found[last] is not None
            and own[last]
            and alike(pieces[number].tape.s[0], began)
            and all(own[n] for n in beside)
        )
    return direct


def _others(
    recording: Recording, pieces: dict[int, Segment], ancestry: Ancestry, last: int, number: int
) -> list[int]:
    """Return the calls, other than the one before, that a call's state seems to hang on."""
    behind = {n for n, _ in ancestry.behind(given_state(recording.calls[number]))}
    return sorted(n for n in behind - {last} if n in pieces)


def _as_sent(g: Tensor | None, expected: Tensor | None) -> bool:
    """Check whether at a call's last state arrives what was sent there, and nothing else."""
    if g is None:
        return expected is None
    if expected is None:
        return not bool((g != 0).any())
    return (
        g.shape[-1] == expected.shape[-1]
        and alike(g[-1], expected)
        and not bool((g[:-1] != 0).any())
    )


def _alike(a: Segment, b: Segment) -> bool:
    """Check whether two calls are of one cell over the same weights, in the same direction."""
    return (
        a.cell is not None
        and same_weights(a.cell, b.cell)
        and (a.reverse, a.through, type(a)) == (b.reverse, b.through, type(b))
        and not a.reverse
    )


def _arrivals(
    recording: Recording, pieces: dict[int, Segment], asked: Sequence[Any], at: Sequence[int]
) -> tuple[list[Tensor], dict[int, Tensor | None]]:
    """Return what is sent from each call's initial state, and what arrives at some calls."""
    outputs: list[Tensor] = []
    seeds: list[Tensor] = []
    sent: list[Tensor] = []
    draw = torch.Generator().manual_seed(0)
    for _, _, _, number in asked:
        piece = pieces[number]
        seed = torch.randn(piece.tape.s[0].shape, generator=draw, dtype=torch.float64, device="cpu")
        sent.append(seed := seed.to(piece.tape.s))
        for end, g in zip(piece.initial(), piece.initial_seeds(seed), strict=True):
            if end.requires_grad:
                outputs.append(end)
                seeds.append(g)
    if not outputs:
        return sent, dict.fromkeys(at)
    found = arrivals(recording, outputs, seeds, [pieces[n] for n in at], cut=True)
    return sent, dict(zip(at, found, strict=True))


def same_weights(a: AbstractCell, b: AbstractCell | None) -> bool:
    """Check whether two cells have the same numbers for weights."""
    if b is None or type(a) is not type(b):
        return False
    mine, other = a.weights(), b.weights()
    return mine.keys() == other.keys() and all(
        w is other[name] or torch.equal(w, other[name]) for name, w in mine.items()
    )


def join(pieces: Sequence[Segment]) -> Segment | None:
    """Return pieces that continue each other as one segment; None where their tapes do not fit."""
    if len(pieces) == 1:
        return pieces[0]
    if type(pieces[0]) is not StepSegment:
        return JoinedSegment(pieces, _concatenated(pieces))
    first = pieces[0]
    cell = first.cell
    assert cell is not None
    x = torch.cat([piece.tape.x for piece in pieces])
    zeroed = _zeroed(pieces)
    with torch.no_grad():
        tape = complete(cell, forward(cell, x, first.tape.s[0], None, zeroed))
    if not alike(tape.s[1:], torch.cat([piece.tape.s[1:] for piece in pieces])):
        return None  # rounding grows along the chain: each step by itself is right
    return JoinedSegment(pieces, tape)


def laid_out(pieces: Sequence[Segment]) -> JoinedSegment:
    """Return pieces of one run as a whole that knows their states, though it cannot be swept."""
    return JoinedSegment(pieces, _concatenated(pieces))


def _zeroed(pieces: Sequence[Segment]) -> Tensor | None:
    """Return (T, B) bool, where a row's state was zeroed before a step; None: nowhere."""
    T, B = sum(piece.tape.T for piece in pieces), pieces[0].tape.B
    zeroed = torch.zeros(T, B, dtype=torch.bool, device=pieces[0].tape.s.device)
    at = 0
    for last, piece in zip((None, *pieces), pieces, strict=False):
        if piece.tape.reset is not None:
            zeroed[at : at + piece.tape.T] = piece.tape.reset
        if last is not None and piece.cell is not None:
            gone = (piece.tape.s[0] == 0).all(-1) & (last.tape.s[-1] != 0).any(-1)
            zeroed[at] |= gone
        at += piece.tape.T
    return zeroed if bool(zeroed.any()) else None


def _concatenated(pieces: Sequence[Segment]) -> Tape:
    """Return one tape of all the pieces' steps."""
    tapes = [piece.tape for piece in pieces]
    active = None
    if any(tape.active is not None for tape in tapes):
        everywhere = [tape.s.new_ones(tape.T, tape.B, dtype=torch.bool) for tape in tapes]
        active = torch.cat(
            [e if t.active is None else t.active for e, t in zip(everywhere, tapes, strict=True)]
        )
    return Tape(
        torch.cat([tape.x for tape in tapes]),
        torch.cat([tapes[0].s, *(tape.s[1:] for tape in tapes[1:])]),
        tuple(torch.cat(kept) for kept in zip(*(tape.saved for tape in tapes), strict=True)),
        active,
        _zeroed(pieces),
    )
