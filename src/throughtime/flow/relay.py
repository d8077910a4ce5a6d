"""Losses handed back from segment to segment, through whatever the user wrote in between."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter

import torch
from torch import Tensor

from ..errors import ThroughTimeError
from ..node.recording import Recording
from .direct import Direct, graph_grads
from .layout import Layout
from .segments import Back, Segment, merged
from .step_segments import GraphSegment

__all__ = ["Entries", "Relay"]

# Fewer losses than this are not worth asking whether they go faster together.
FEW = 4


class Entries:
    """Where each loss enters which run.

    Attributes:
        layout: the trace's.
        parts: for each run, and then for each state that one began from, what enters it: a
            `Direct` with owners, or (V, T, B, G); None: nothing.
        V: how many losses there are.
    """

    def __init__(self, layout: Layout, parts: Sequence[Direct | Tensor | None], V: int) -> None:
        """Note which steps of a run each segment holds."""
        self.layout, self.parts, self.V = layout, parts, V
        self.place: dict[int, tuple[int, slice]] = {}
        for r, numbers in enumerate(layout.parts):
            first = 0
            for u in numbers:
                T = layout.segments[u].tape.T
                self.place[u] = (r, slice(first, first + T))
                first += T
        for n, u in enumerate(layout.begins, len(layout.runs)):
            self.place[u] = (n, slice(0, 1))

    def at(self, u: int, losses: Tensor) -> Tensor | None:
        """Return what the losses named send into a segment, (n, T, B, G); None: nothing."""
        r, steps = self.place[u]
        part = self.parts[r]
        if part is None:
            return None
        if isinstance(part, Tensor):
            return part[losses, steps]
        assert part.owner is not None
        if not bool((part.owner[steps] >= 0).any()):
            return None
        return Direct(part.g[steps], part.owner[steps]).of(losses)

    def last(self) -> Tensor:
        """Return the last segment that each loss enters, (V,); −1: none."""
        found = torch.full((self.V,), -1, dtype=torch.long, device="cpu")
        for u, (r, steps) in self.place.items():
            part = self.parts[r]
            if part is None:
                continue
            if isinstance(part, Tensor):
                there = (part[:, steps] != 0).flatten(1).any(1).nonzero().flatten().cpu()
            else:
                assert part.owner is not None
                there = part.owner[steps].unique().cpu()
                there = there[there >= 0]
            found[there] = found[there].clamp(min=u)
        return found


class Relay:
    """The segments of a trace, and the graph between them, sent through from the last to the first.

    Several losses go together. Each takes part only from the last segment that it enters on, so of
    one loss a step half of all pairs are computed.

    Attributes:
        recording: the trace's.
        layout: its runs as segments.
    """

    def __init__(self, recording: Recording, layout: Layout) -> None:
        """Take a trace's segments."""
        self.recording, self.layout = recording, layout
        self._together: dict[str, bool] = {}

    def send(
        self,
        entries: Entries,
        visit: Callable[[int, Tensor, Back], None],
        *,
        which: Tensor | None = None,
        until: int = 0,
        deltas: bool = False,
    ) -> None:
        """Send losses back.

        Args:
            entries: where they enter.
            visit: called for each segment that is reached, with its number, the losses that reach
                it and what they left there.
            which: the losses; None: all.
            until: the last segment to visit.
            deltas: whether the vectors are wanted and not their norms alone.
        """
        last = entries.last()
        which = torch.arange(entries.V, device="cpu") if which is None else which.cpu()
        which = which[last[which].argsort(descending=True, stable=True)]
        counts = [(last[which] >= u).sum().item() for u in range(len(self.layout.segments))]
        device = self.layout.segments[0].tape.s.device if self.layout.segments else None
        which = which.to(device)
        waiting: dict[int, Tensor] = {}
        for u in range(len(counts) - 1, until - 1, -1):
            losses = which[: int(counts[u])]
            if not len(losses):
                continue
            segment = self.layout.segments[u]
            g = _sum(entries.at(u, losses), waiting.pop(u, None))
            if g is None:
                continue
            g = _filled(g, segment, len(losses))
            back = segment.back(g, deltas=deltas)
            behind = [j for j in self.layout.behind[u] if j >= until]
            for j, more in zip(behind, self._hand_on(segment, back, behind), strict=True):
                if more is not None:
                    own = waiting.get(j)
                    wide = _filled(more, self.layout.segments[j], int(counts[j]))
                    waiting[j] = wide if own is None else own + wide
            visit(u, losses, back)

    def _hand_on(self, segment: Segment, back: Back, behind: list[int]) -> list[Tensor | None]:
        """Send what leaves a segment on to those that it hangs on directly."""
        ends = segment.ends()
        entered = segment.step.entered if isinstance(segment, GraphSegment) else ()
        if not ends or not (behind or entered):
            return [None] * len(behind)
        segments = [self.layout.segments[j] for j in behind]
        nodes = [node for one in segments for node in one.nodes()]
        found = self._grads(segment.name, ends, [*nodes, *entered], back.seeds)
        if entered and isinstance(segment, GraphSegment):
            segment.begin(back, found[len(nodes) :])
        return merged(segments, found)

    def _grads(
        self, name: str, ends: list[Tensor], nodes: Sequence[object], seeds: list[Tensor]
    ) -> list[Tensor | None]:
        """Return the gradients of V losses, taken together or one by one, whichever is faster.

        Which it is depends on the operations; the first segment of a run is timed both ways. Some
        operations cannot be batched at all: autograd functions that somebody wrote.

        Raises:
            ThroughTimeError: the graph was freed, or weights have changed since.
        """
        V = seeds[0].shape[0]
        together = self._together.get(name)
        if V == 1 or together is False:
            return self._one_by_one(ends, nodes, seeds)
        if V >= FEW and together is None:
            began = perf_counter()
            self._one_by_one(ends, nodes, [seed[:2] for seed in seeds])
            each = (perf_counter() - began) / 2
        else:
            each = None
        began = perf_counter()
        try:
            found = graph_grads(self.recording, ends, nodes, seeds, cut=True, batched=True)
        except ThroughTimeError:
            raise
        except RuntimeError:
            self._together[name] = False
            return self._one_by_one(ends, nodes, seeds)
        if each is not None:
            self._together[name] = perf_counter() - began <= each * V
        return list(found)

    def _one_by_one(
        self, ends: list[Tensor], nodes: Sequence[object], seeds: list[Tensor]
    ) -> list[Tensor | None]:
        found = [
            graph_grads(self.recording, ends, nodes, [seed[v] for seed in seeds], cut=True)
            for v in range(seeds[0].shape[0])
        ]
        return [None if many[0] is None else torch.stack(many) for many in zip(*found, strict=True)]


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """Return the sum of what enters directly and what was handed on; the second may be shorter."""
    if a is None or b is None:
        return b if a is None else a
    width = max(a.shape[-1], b.shape[-1])
    a = torch.nn.functional.pad(a, (0, width - a.shape[-1]))
    b = torch.nn.functional.pad(b, (0, width - b.shape[-1]))
    return a + torch.nn.functional.pad(b, (0, 0) * (b.dim() - 1) + (0, len(a) - len(b)))


def _filled(g: Tensor, segment: Segment, rows: int) -> Tensor:
    """Return g (n, T, B, G) with zeros up to the losses and the state's width."""
    S = segment.tape.s.shape[-1]
    if g.shape[0] == rows and g.shape[-1] == S:
        return g
    wide = g.new_zeros(rows, *g.shape[1:-1], S)
    wide[: len(g), ..., : g.shape[-1]] = g
    return wide
