"""Rows that end early or begin anew, as torch's modules take them: packed, so that none is padded.

A row is cut at its resets into episodes, and the episodes are the rows of one packed batch, the
longest first. All that is needed for that is found once per batch.
"""

from __future__ import annotations

import weakref
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from ..cpu.arguments import lengths_known

__all__ = ["Packing", "begun", "ended", "pack", "packed", "unpacked"]


class Packing(NamedTuple):
    """Where each step of a batch (T, B) stands in the packed one.

    Attributes:
        sizes: how many episodes take a first, a second, … step; on the CPU, as torch wants it.
        steps: (N,) which of the T·B steps each packed one is.
        rows: which rows take a step, or None: all B in turn.
        final: which episode is the last of each of these rows.
        given: which rows begin with s_0: those that are not reset first.
        first: which episode each of these begins.
        start: which episode is the first of each of ``rows``, where the reverse direction ends;
            None where no row is cut, and it is the last one.
    """

    sizes: Tensor
    steps: Tensor
    rows: Tensor | None
    final: Tensor
    given: Tensor
    first: Tensor
    start: Tensor | None

    @property
    def episodes(self) -> int:
        """How many there are."""
        return int(self.sizes[0])


# Every layer is given the batch's masks, forward and back.
_FOUND: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def packed(active: Tensor | None, reset: Tensor | None) -> Packing | None:
    """Return how masks (T, B) cut a batch, once per batch; None where no row takes any step.

    Args:
        active: (T, B) bool; None: every row takes every step.
        reset: (T, B) bool, within ``active``; where True an episode begins.
    """
    masks = [mask for mask in (active, reset) if mask is not None]
    if any(mask.is_inference() for mask in masks):  # torch does not count what is written there
        return _find(active, reset)
    key, other = masks[0], masks[-1]
    found = _FOUND.get(key)
    if found is not None and found[0]() is other and found[1] == (key._version, other._version):
        return found[2]
    now = key._version, other._version
    _FOUND[key] = weakref.ref(other), now, _find(active, reset)
    return _FOUND[key][2]


def _find(active: Tensor | None, reset: Tensor | None) -> Packing | None:
    like = reset if active is None else active
    assert like is not None
    T, B = like.shape
    lengths = None if active is None or reset is not None else lengths_known(active)
    if lengths is not None:  # on the CPU: there is nothing to wait for
        active = torch.arange(T, device="cpu")[:, None] < lengths
    elif active is None:
        active = torch.ones_like(like)
    takes = active.t()
    row, step = takes.nonzero(as_tuple=True)  # each row's steps in turn
    if not len(row):
        return None
    begins = torch.ones_like(row, dtype=torch.bool)
    begins[1:] = row[1:] != row[:-1]
    anew = torch.zeros_like(begins) if reset is None else reset[step, row]
    start, first = begins, begins & ~anew
    last = torch.ones_like(begins)
    last[:-1] = begins[1:]
    begins = begins | anew
    episode = begins.cumsum(0) - 1
    starts = begins.nonzero()[:, 0]
    counts = torch.bincount(episode)
    # As `pack_padded_sequence` sorts: sums over rows are then torch's, bit by bit.
    longest, order = torch.sort(counts.cpu(), descending=True)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device="cpu")
    sizes = _sizes(longest)
    place, begun = place.to(row.device), (sizes.cumsum(0) - sizes).to(row.device)
    at = begun[torch.arange(len(row), device=row.device) - starts[episode]] + place[episode]
    steps = torch.empty_like(row)
    steps[at] = step * B + row
    rows = row[last]
    parts = (
        steps, None if len(rows) == B else rows, place[episode[last]], row[first],
        place[episode[first]], None if reset is None else place[episode[start]],
    )  # fmt: skip
    return Packing(sizes, *(None if p is None else p.to(like.device) for p in parts))  # pyright: ignore


def _sizes(longest: Tensor) -> Tensor:
    """Return how many of the lengths, longest first, are at least 1, at least 2, and so on."""
    ended = torch.bincount(longest)  # by length
    return len(longest) - ended.cumsum(0)[:-1]


class _Taken(torch.autograd.Function):
    """Rows by number, none of them twice; back without atomics."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, at: Tensor) -> Tensor:
        ctx.at, ctx.n = at, len(source)
        ctx.set_materialize_grads(False)  # where nothing arrives, nothing is sent on
        return source.index_select(0, at)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> tuple[Tensor | None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if g is None:
            return None, None
        return g.new_zeros(ctx.n, *g.shape[1:]).index_copy_(0, ctx.at, g), None


class _Placed(torch.autograd.Function):
    """Rows to where they belong among others that are 0."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, at: Tensor, n: int) -> Tensor:
        ctx.at = at
        ctx.set_materialize_grads(False)
        return source.new_zeros(n, *source.shape[1:]).index_copy_(0, at, source)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> tuple[Tensor | None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if g is None:
            return None, None, None
        return g.index_select(0, ctx.at), None, None


def pack(how: Packing, x: Tensor) -> Tensor:
    """Return the steps (N, ·) that rows take, of x (T, B, ·)."""
    return _Taken.apply(x.flatten(0, 1), how.steps)  # pyright: ignore


def unpacked(how: Packing, data: Tensor, T: int, B: int) -> Tensor:
    """Return (T, B, ·) of the packed steps (N, ·), 0 where a row takes none."""
    return _Placed.apply(data, how.steps, T * B).view(T, B, -1)  # pyright: ignore


def begun(how: Packing, part: Tensor, *, both: bool = False) -> Tensor:
    """Return what each episode begins from, (R, episodes, ·), of the initial states (R, B, ·).

    Args:
        how: the packing.
        part: of the initial states.
        both: whether every second of the R runs goes in reverse, and begins with the last episode.
    """
    if both and how.start is not None:
        there = _begun(how, part[::2], how.given, how.first)
        return _in_turn(there, _begun(how, part[1::2], how.rows, how.final))
    return _begun(how, part, how.given, how.first)


def _begun(how: Packing, part: Tensor, rows: Tensor | None, episodes: Tensor) -> Tensor:
    given = part.transpose(0, 1)
    if rows is not None:
        given = _Taken.apply(given, rows)
    placed = _Placed.apply(given, episodes, how.episodes)
    return placed.transpose(0, 1).contiguous()  # pyright: ignore


def ended(how: Packing, part: Tensor, initial: Tensor, *, both: bool = False) -> Tensor:
    """Return the final states (R, B, ·) of the episodes' (R, episodes, ·).

    Args:
        how: the packing.
        part: the states after each episode.
        initial: the states (R, B, ·) of rows that take no step.
        both: whether every second of the R runs goes in reverse, and ends with the first episode.
    """
    if both and how.start is not None:
        final = _in_turn(_ended(part[::2], how.final), _ended(part[1::2], how.start))
    else:
        final = _ended(part, how.final)
    return final.contiguous() if how.rows is None else initial.index_copy(1, how.rows, final)


def _ended(part: Tensor, episodes: Tensor) -> Tensor:
    return _Taken.apply(part.transpose(0, 1), episodes).transpose(0, 1)  # pyright: ignore


def _in_turn(forward: Tensor, reverse: Tensor) -> Tensor:
    """Return the runs as torch has them: each layer's forward one, then its reverse one."""
    return torch.stack((forward, reverse), 1).flatten(0, 1)
