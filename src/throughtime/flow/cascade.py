"""Losses sent back through every recorded layer, from the last run to the first."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..node.recording import Recording
from .direct import Direct, arrivals, clock
from .links import inherited, links
from .pairs import Swept, sweep_losses
from .segments import Segment

__all__ = ["Cascade", "floor"]


class Cascade:
    """The way of a loss through several layers: direct parts, sweeps, and the graph between.

    Attributes:
        recording: the trace's.
        runs: each run as one segment, those that others hang on first.
        losses: (V,).
        directs: what each loss sends straight into each layer.
        told_apart: whether every direct gradient has the one loss that it comes from.
        links: for each run, the earlier runs that its input or initial state depends on.
        joined: for each run, whether there are any.
        cuttable: for each run, whether it may be left at a window's end.
        lone: for each run (V,), the one step at which each loss enters it, where that is so and
            nothing comes in through later runs; else None.
    """

    def __init__(
        self,
        recording: Recording,
        runs: Sequence[Segment],
        losses: Tensor,
        directs: list[Direct],
    ) -> None:
        """Look which runs feed which."""
        self.recording, self.runs, self.losses, self.directs = recording, runs, losses, directs
        self.links = links(recording, runs)
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
        """Check for each run whether it may be left at a window's end.

        What it passes on from steps beyond the window must stay beyond the window in every run
        before it. That holds where all on the way is step by step, all runs look back, and no row
        ends sooner in an earlier run, whose window would then begin sooner too.
        """
        runs = self.runs
        turned = any(run.reverse for run in runs)
        ends = [_ends(run) for run in runs]
        found: list[bool] = []
        for i, own in enumerate(self.links):
            kept = (k.aligned and found[k.to] and bool((ends[k.to] >= ends[i]).all()) for k in own)
            found.append(not own or (not turned and all(kept)))
        return found

    def bytes_per_loss(self) -> int:
        """Return the memory that one loss needs while it is sent back."""
        total = 0
        for run, joined, lone in zip(self.runs, self.joined, self.lone, strict=True):
            cell, tape = run.cell, run.tape
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
            For each run g_v (V, T, B, G), all that enters it, or (T, B, G) where the run is
            `lone`; what its sweep gave; and the step at which each loss stands there, (V, B).
        """
        runs = self.runs
        g = list(direct)
        swept: list[Swept | None] = [None] * len(runs)
        # By the input's clock: the last step that each loss reads of a run, directly or through
        # runs that hang on it step by step.
        clocks = self.latest_reads(which, direct)
        stands: list[Tensor] = list(clocks)
        for i in reversed(range(len(runs))):
            run, lone = runs[i], self.lone[i]
            if lone is None:
                clocks[i] = torch.where(clocks[i] > 0, clocks[i], _last_arrival(run, g[i]))
            clocks[i] = torch.minimum(clocks[i], _ends(run))
            stands[i] = inherited(clocks[i], run.tape.T, run.reverse)
            swept[i] = found = sweep_losses(
                run.cell,
                run.tape,
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
        """Return what the losses ``which`` send straight into each run, (V, T, B, G).

        For a run that is `lone` that is (T, B, G), the sum over losses.
        """
        if self.told_apart:
            return [
                direct.of(which) if lone is None else direct.g
                for direct, lone in zip(self.directs, self.lone, strict=True)
            ]
        runs = self.runs
        g: list[list[Tensor]] = [[] for _ in runs]
        for v in which.tolist():
            seed = torch.zeros_like(self.losses)
            seed[v] = 1
            for i, sent in enumerate(arrivals(self.recording, self.losses, seed, runs, cut=True)):
                g[i].append(runs[i].nothing() if sent is None else sent)
        return [torch.stack([_widen(one, many) for one in many]) for many in g]

    def latest_reads(self, which: Tensor, direct: list[Tensor]) -> list[Tensor]:
        """Return the last step of the input that each loss reads from each run, (V, B); 0: none.

        Args:
            which: (V,) loss numbers.
            direct: what `direct` gave for them.
        """
        runs = self.runs
        if self.told_apart:
            V = self.losses.numel()
            return [
                d.latest_reads(V, run.reverse)[which]
                for d, run in zip(self.directs, runs, strict=True)
            ]
        return [_last_arrival(run, g) for run, g in zip(runs, direct, strict=True)]

    def _pass_on(self, i: int, swept: Swept) -> list[Tensor | None]:
        """Send the gradients of a run's input and initial state on to the runs before it."""
        run, earlier = self.runs[i], self.runs[:i]
        assert swept.x is not None
        ends = run.ends()
        if run.inner and not any(end.requires_grad for end in run.initial()):
            # Between the layers of one module lie dropout, cat and flip, which torch can batch.
            seeds = run.seeds(swept.x, swept.s_0)
            return arrivals(self.recording, ends, seeds, earlier, cut=True, batched=True)
        rows: list[list[Tensor | None]] = [[] for _ in earlier]
        for v in range(swept.x.shape[0]):
            seeds = run.seeds(swept.x[v], swept.s_0[v])
            for j, g in enumerate(arrivals(self.recording, ends, seeds, earlier, cut=True)):
                rows[j].append(g)
        return [None if many[0] is None else torch.stack(many) for many in rows]  # pyright: ignore


def floor(enters: Tensor, window: int | None) -> Tensor:
    """Return the lowest k to follow each loss to, (V,), from the steps of its rows (V, B)."""
    if window is None:
        return torch.zeros_like(enters[:, 0])
    earliest = torch.where(enters > 0, enters, enters.amax(1, keepdim=True)).amin(1)
    return (earliest - window).clamp(min=0)


def _ends(run: Segment) -> Tensor:
    """Return the last step of the input that each row takes, (B,)."""
    tape = run.tape
    steps = clock(tape.T, run.reverse, tape.s.device).expand(-1, tape.B)
    return (steps if tape.active is None else steps * tape.active).amax(0)


def _last_arrival(run: Segment, g: Tensor) -> Tensor:
    """Return the last step of the input that anything enters at, for each loss and row; 0: none."""
    return ((g != 0).any(-1) * clock(run.tape.T, run.reverse, g.device)).amax(1)


def _widen(g: Tensor, others: list[Tensor]) -> Tensor:
    """Return g with as many state columns as the widest of the others."""
    width = max(other.shape[-1] for other in others)
    return torch.nn.functional.pad(g, (0, width - g.shape[-1]))


def _add(a: Tensor, b: Tensor) -> Tensor:
    return _widen(a, [a, b]) + _widen(b, [a, b])
