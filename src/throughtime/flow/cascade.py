"""Losses sent back through every recorded layer, from the last run to the first."""

from __future__ import annotations

import torch
from torch import Tensor

from ..node.recording import Call, Recording
from .direct import Direct, clock, grads, merge
from .links import inherited, links
from .pairs import Swept, sweep_losses

__all__ = ["Cascade", "floor"]


class Cascade:
    """The way of a loss through several layers: direct parts, sweeps, and the graph between.

    Attributes:
        recording: the trace's.
        losses: (V,).
        directs: what each loss sends straight into each layer.
        told_apart: whether every direct gradient has the one loss that it comes from.
        links: for each call, the earlier calls that its input or initial state depends on.
        joined: for each call, whether there are any.
        cuttable: for each call, whether it may be left at a window's end.
        lone: for each call (V,), the one step at which each loss enters it, where that is so and
            nothing comes in through later calls; else None.
    """

    def __init__(self, recording: Recording, losses: Tensor, directs: list[Direct]) -> None:
        """Look which calls feed which."""
        self.recording, self.losses, self.directs = recording, losses, directs
        self.links = links(recording)
        self.joined = [bool(own) for own in self.links]
        self.cuttable = self._cuttable()
        self.told_apart = all(direct.owner is not None for direct in directs)
        self.lone = [
            direct.lone_steps(losses.numel())
            if self.told_apart and not any(self.joined[i + 1 :])
            else None
            for i, direct in enumerate(directs)
        ]

    def _cuttable(self) -> list[bool]:
        """Check for each call whether it may be left at a window's end.

        What it passes on from steps beyond the window must stay beyond the window in every call
        before it. That holds where all on the way is step by step, all calls look back, and no row
        ends sooner in an earlier call, whose window would then begin sooner too.
        """
        calls = self.recording.calls
        turned = any(call.reverse for call in calls)
        ends = [_ends(call) for call in calls]
        found: list[bool] = []
        for i, own in enumerate(self.links):
            kept = (k.aligned and found[k.to] and bool((ends[k.to] >= ends[i]).all()) for k in own)
            found.append(not own or (not turned and all(kept)))
        return found

    def bytes_per_loss(self) -> int:
        """Return the memory that one loss needs while it is sent back."""
        total = 0
        for call, joined, lone in zip(self.recording.calls, self.joined, self.lone, strict=True):
            cell, tape = call.cell, call.tape
            widths = cell.state_size * (lone is None) + (
                (cell.input_size + cell.preact_size) * joined
            )
            carried = cell.state_size + cell.preact_size
            total += tape.B * (tape.T * widths + carried) * tape.s.element_size()
        return total

    def run(
        self, which: Tensor, direct: list[Tensor], window: int | None = None
    ) -> tuple[list[Tensor], list[Swept], list[Tensor]]:
        """Send the losses ``which`` back through all layers.

        Args:
            which: (V,) loss numbers.
            direct: what `direct` gave for them.
            window: how many steps each loss is followed at most; None: to the beginning.

        Returns:
            For each call g_v (V, T, B, G), all that enters it, or (T, B, G) where the call is
            `lone`; what its sweep gave; and the step at which each loss stands there, (V, B).
        """
        calls = self.recording.calls
        g = list(direct)
        swept: list[Swept | None] = [None] * len(calls)
        # By the input's clock: the last step that each loss reads of a call, directly or through
        # calls that hang on it step by step.
        clocks = self.latest_reads(which, direct)
        stands: list[Tensor] = list(clocks)
        for i in reversed(range(len(calls))):
            call, lone = calls[i], self.lone[i]
            if lone is None:
                clocks[i] = torch.where(clocks[i] > 0, clocks[i], _last_arrival(call, g[i]))
            clocks[i] = torch.minimum(clocks[i], _ends(call))
            stands[i] = inherited(clocks[i], call.tape.T, call.reverse)
            swept[i] = found = sweep_losses(
                call.cell,
                call.tape,
                g[i],
                floor(stands[i], window if self.cuttable[i] else None),
                enters=None if lone is None else lone[which],
                want_x=self.joined[i],
            )
            for link in self.links[i]:
                if link.aligned:
                    clocks[link.to] = torch.maximum(clocks[link.to], clocks[i])
            if self.joined[i]:
                for j, more in enumerate(self._pass_on(i, found)):
                    if more is not None:
                        g[j] = _add(g[j], more)
        return g, swept, stands  # pyright: ignore[reportReturnType]

    def direct(self, which: Tensor) -> list[Tensor]:
        """Return what the losses ``which`` send straight into each call, (V, T, B, G).

        For a call that is `lone` that is (T, B, G), the sum over losses.
        """
        if self.told_apart:
            return [
                direct.of(which) if lone is None else direct.g
                for direct, lone in zip(self.directs, self.lone, strict=True)
            ]
        calls = self.recording.calls
        g: list[list[Tensor]] = [[] for _ in calls]
        for v in which.tolist():
            seed = torch.zeros_like(self.losses)
            seed[v] = 1
            found = grads(self.recording, self.losses, seed, calls, cut=True)
            for i, pair in enumerate(found):
                g[i].append(merge(calls[i], *pair))
        return [torch.stack([_widen(one, many) for one in many]) for many in g]

    def latest_reads(self, which: Tensor, direct: list[Tensor]) -> list[Tensor]:
        """Return the last step of the input that each loss reads from each call, (V, B); 0: none.

        Args:
            which: (V,) loss numbers.
            direct: what `direct` gave for them.
        """
        calls = self.recording.calls
        if self.told_apart:
            V = self.losses.numel()
            return [
                d.latest_reads(V, call.reverse)[which]
                for d, call in zip(self.directs, calls, strict=True)
            ]
        return [_last_arrival(call, g) for call, g in zip(calls, direct, strict=True)]

    def _pass_on(self, i: int, swept: Swept) -> list[Tensor | None]:
        """Send the gradients of a call's input and initial state on to the calls before it."""
        call, earlier = self.recording.calls[i], self.recording.calls[:i]
        assert swept.x is not None
        ends = [(call.x, swept.x), (call.s_0, swept.s_0)]
        ends = [(end, g) for end, g in ends if end.requires_grad]
        if call.inner and not call.s_0.requires_grad:
            # Between the layers of one module lie dropout, cat and flip, which torch can batch.
            found = grads(self.recording, [call.x], [swept.x], earlier, cut=True, batched=True)
            return [_merge_or_none(c, *p) for c, p in zip(earlier, found, strict=True)]
        rows: list[list[Tensor | None]] = [[] for _ in earlier]
        for v in range(swept.x.shape[0]):
            found = grads(
                self.recording,
                [end for end, _ in ends],
                [g[v] for _, g in ends],
                earlier,
                cut=True,
            )
            for j, pair in enumerate(found):
                rows[j].append(_merge_or_none(earlier[j], *pair))
        return [None if many[0] is None else torch.stack(many) for many in rows]  # pyright: ignore


def floor(enters: Tensor, window: int | None) -> Tensor:
    """Return the lowest k to follow each loss to, (V,), from the steps of its rows (V, B)."""
    if window is None:
        return torch.zeros_like(enters[:, 0])
    earliest = torch.where(enters > 0, enters, enters.amax(1, keepdim=True)).amin(1)
    return (earliest - window).clamp(min=0)


def _ends(call: Call) -> Tensor:
    """Return the last step of the input that each row takes, (B,)."""
    tape = call.tape
    steps = clock(tape.T, call.reverse, tape.s.device).expand(-1, tape.B)
    return (steps if tape.active is None else steps * tape.active).amax(0)


def _last_arrival(call: Call, g: Tensor) -> Tensor:
    """Return the last step of the input that anything enters at, for each loss and row; 0: none."""
    return ((g != 0).any(-1) * clock(call.tape.T, call.reverse, g.device)).amax(1)


def _merge_or_none(call: Call, g_h: Tensor | None, g_s: Tensor | None) -> Tensor | None:
    return None if g_h is None and g_s is None else merge(call, g_h, g_s)


def _widen(g: Tensor, others: list[Tensor]) -> Tensor:
    """Return g with as many state columns as the widest of the others."""
    width = max(other.shape[-1] for other in others)
    return torch.nn.functional.pad(g, (0, width - g.shape[-1]))


def _add(a: Tensor, b: Tensor) -> Tensor:
    return _widen(a, [a, b]) + _widen(b, [a, b])
