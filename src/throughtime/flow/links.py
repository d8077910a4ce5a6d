"""How the runs of a trace hang on each other: step by step, or in a way that mixes time."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..node.recording import Call, Recording
from .direct import clock, grads, merge

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


def links(recording: Recording) -> list[list[Link]]:
    """Return, for each run, on which earlier runs it depends directly, and how.

    A run within one module depends on the layer below step by step. What lies between two modules
    is the user's: random gradients are sent through it, with the steps told apart by the bits of
    their numbers, so that one that arrives at another step than it left shows.

    Args:
        recording: the trace's.

    Cost:
        2·log₂ T backward passes through what lies between two modules.
    """
    return [_of_call(recording, i) for i in range(len(recording.calls))]


def _of_call(recording: Recording, i: int) -> list[Link]:
    call, earlier = recording.calls[i], recording.calls[:i]
    ends = [end for end in (call.x, call.s_0) if end.requires_grad]
    if not earlier or not ends:
        return []
    found = grads(recording, ends, [torch.ones_like(end) for end in ends], earlier, cut=True)
    fed = [j for j, pair in enumerate(found) if any(g is not None for g in pair)]
    if not fed:
        return []
    if call.inner and not call.s_0.requires_grad:
        return [Link(j, True) for j in fed]
    by_state = set()
    if call.s_0.requires_grad:
        found = grads(recording, [call.s_0], [torch.ones_like(call.s_0)], earlier, cut=True)
        by_state = {j for j, pair in enumerate(found) if any(g is not None for g in pair)}
    aligned = _aligned(recording, call, [earlier[j] for j in fed])
    return [Link(j, j not in by_state and one) for j, one in zip(fed, aligned, strict=True)]


def _aligned(recording: Recording, call: Call, earlier: list[Call]) -> list[bool]:
    """Check for each earlier run whether steps of ``call``'s input come from the same steps."""
    T, B = call.tape.T, call.tape.B
    same = [c.tape.T == T and c.tape.B == B for c in earlier]
    arrived = [False] * len(earlier)
    if not call.x.requires_grad or not any(same):
        return [False] * len(earlier)
    draw = torch.Generator().manual_seed(0)
    seed = torch.randn(call.x.shape, generator=draw, dtype=torch.float64, device="cpu")
    seed = seed.to(call.x)
    step = clock(T, call.reverse, seed.device) - 1
    for j in range(max(1, (T - 1).bit_length())):
        for side in (0, 1):
            sent = ((step >> j) & 1) == side
            if not bool(sent.any()):
                continue
            found = grads(
                recording, [call.x], [torch.where(sent[..., None], seed, 0)], earlier, cut=True
            )
            for n, (other, pair) in enumerate(zip(earlier, found, strict=True)):
                if not same[n] or all(g is None for g in pair):
                    continue
                at = (merge(other, *pair) != 0).any(-1)
                own = ((clock(T, other.reverse, seed.device) - 1) >> j) & 1
                same[n] = not bool((at & (own != side)).any())
                arrived[n] = arrived[n] or bool(at.any())
    return [one and there for one, there in zip(same, arrived, strict=True)]


def inherited(at: Tensor, T: int, reverse: bool) -> Tensor:
    """Return a step on the input's clock as a run's own step; 0 stays 0."""
    return torch.where(at == 0, 0, T + 1 - at if reverse else at)
