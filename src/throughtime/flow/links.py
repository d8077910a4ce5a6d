"""How the runs of a trace hang on each other: step by step, or in a way that mixes time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..node.recording import Recording
from .direct import arrivals, clock
from .segments import Segment

__all__ = ["Link", "links"]


class Link(NamedTuple):
    """One run's dependence on an earlier one.

    Attributes:
        to: the earlier run's number.
        aligned: whether each step of the input comes from the same step of the earlier output,
            counted from the input's beginning, and nothing comes in by the initial state.
    """

    to: int
    aligned: bool


def links(recording: Recording, runs: Sequence[Segment]) -> list[list[Link]]:
    """Return, for each run, on which earlier runs it depends directly, and how.

    A run within one module depends on the layer below step by step. What lies between two modules
    is the user's: random gradients are sent through it, with the steps told apart by the bits of
    their numbers, so that one that arrives at another step than it left shows.

    Args:
        recording: the trace's.
        runs: each run as one segment, those that others hang on first.

    Cost:
        2·log₂ T backward passes through what lies between two modules.
    """
    return [_of_run(recording, run, runs[:i]) for i, run in enumerate(runs)]


def _of_run(recording: Recording, run: Segment, earlier: Sequence[Segment]) -> list[Link]:
    ends = run.ends()
    if not earlier or not ends:
        return []
    ones = [torch.ones_like(end) for end in ends]
    found = arrivals(recording, ends, ones, earlier, cut=True)
    fed = [j for j, g in enumerate(found) if g is not None]
    if not fed:
        return []
    state = [end for end in run.initial() if end.requires_grad]
    if run.inner and not state:
        return [Link(j, True) for j in fed]
    by_state = set()
    if state:
        ones = [torch.ones_like(end) for end in state]
        found = arrivals(recording, state, ones, earlier, cut=True)
        by_state = {j for j, g in enumerate(found) if g is not None}
    aligned = _aligned(recording, run, [earlier[j] for j in fed])
    return [Link(j, j not in by_state and one) for j, one in zip(fed, aligned, strict=True)]


def _aligned(recording: Recording, run: Segment, earlier: Sequence[Segment]) -> list[bool]:
    """Check for each earlier run whether steps of ``run``'s input come from the same steps."""
    T, B = run.tape.T, run.tape.B
    same = [c.tape.T == T and c.tape.B == B for c in earlier]
    arrived = [False] * len(earlier)
    wanted = [x.requires_grad for x in run.inputs()]
    if not any(wanted) or not any(same):
        return [False] * len(earlier)
    inputs = [x for x, asked in zip(run.inputs(), wanted, strict=True) if asked]
    draw = torch.Generator().manual_seed(0)
    seed = torch.randn(run.tape.x.shape, generator=draw, dtype=torch.float64, device="cpu")
    seed = seed.to(run.tape.x)
    step = clock(T, run.reverse, seed.device) - 1
    for j in range(max(1, (T - 1).bit_length())):
        for side in (0, 1):
            sent = ((step >> j) & 1) == side
            if not bool(sent.any()):
                continue
            seeds = run.input_seeds(torch.where(sent[..., None], seed, 0))
            seeds = [g for g, asked in zip(seeds, wanted, strict=True) if asked]
            found = arrivals(recording, inputs, seeds, earlier, cut=True)
            for n, (other, g) in enumerate(zip(earlier, found, strict=True)):
                if not same[n] or g is None:
                    continue
                at = (g != 0).any(-1)
                own = ((clock(T, other.reverse, seed.device) - 1) >> j) & 1
                same[n] = not bool((at & (own != side)).any())
                arrived[n] = arrived[n] or bool(at.any())
    return [one and there for one, there in zip(same, arrived, strict=True)]


def inherited(at: Tensor, T: int, reverse: bool) -> Tensor:
    """Return a step on the input's clock as a run's own step; 0 stays 0."""
    return torch.where(at == 0, 0, T + 1 - at if reverse else at)
