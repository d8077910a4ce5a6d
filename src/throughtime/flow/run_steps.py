"""The steps of a run that only the model's own graph connects, and what arrives at each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from ..node.recording import Call
from ..norms import vector_norm
from .layer_flow import LayerFlow
from .nonfinite import NonFinite, first_nonfinite
from .relay import Entries
from .segments import Back, Segment
from .source import Source
from .step_segments import GraphSegment

__all__ = ["RunSteps"]


class RunSteps(LayerFlow):
    """The steps of a run that the model's own code connects, and what arrives at them.

    What a step is told of, and by what, is the model's graph: between two states may lie whatever
    somebody wrote, a readout that is fed back among it. ∂s_t/∂s_k is taken along all of it.

    Attributes:
        cuts: the steps before which the state was detached.
        kind: what the steps are: a module's class, or "mark".
    """

    def __init__(
        self,
        source: Source,
        r: int,
        norms: Tensor,
        loss_index: Tensor,
        enters: Tensor,
        g: Tensor,
        entries: Entries,
        split: str,
    ) -> None:
        """Take what was measured.

        Args:
            source: what all runs share.
            r: the run's number.
            norms: (V, T+1, B).
            loss_index: (V,).
            enters: (V, B).
            g: all that enters the run, summed over losses (T, B, G).
            entries: where each loss enters.
            split: "loss" or "step".
        """
        layout = source.relay.layout
        whole = layout.wholes[r]
        super().__init__(whole, norms, loss_index, enters, g, self._of_loss, entries.V, split)
        self.source, self._r, self._entries = source, r, entries
        self._parts = [layout.segments[u] for u in layout.parts[r]]
        self._numbers = layout.parts[r]
        # What the last loss asked about left: a step's or another weight's term is asked for next.
        self._sent: tuple[int, list[Back | None]] | None = None
        self._steps = [entries.place[u][1] for u in self._numbers]
        run, first = layout.runs[r], 1
        cuts = []
        for number, cut in zip(run.numbers, run.cut, strict=True):
            call = source.relay.recording.calls[number]
            if cut:
                cuts.append(first)
            first += call.tape.T if isinstance(call, Call) else 1
        self.cuts = tuple(cuts)
        if not self._knows_beginning():
            # The state before the first step is not known, so no step leads to the first one.
            seen = torch.ones(self.T, self.B, dtype=torch.bool, device=norms.device)
            seen[0] = False
            self.tape = replace(self.tape, active=seen)
        self._module = next(
            (p.step.module for p in self._parts if isinstance(p, GraphSegment)), None
        )

    @property
    def kind(self) -> str:
        """What the steps are."""
        if self._module is not None:
            return type(self._module).__name__
        return "mark" if self.cell is None else type(self.cell).__name__

    @property
    def jacobian_steps(self) -> range:
        """The steps that have a Jacobian: not the first where no state is known before it."""
        return range(1 if self._knows_beginning() else 2, self.T + 1)

    @property
    def cell_alone(self) -> bool:
        """False: the model's own code lies between the steps."""
        return False

    @cached_property
    def _profile(self) -> Tensor:
        profile = super()._profile
        return profile if self._knows_beginning() else profile[:-1]

    @cached_property
    def first_nonfinite(self) -> NonFinite | None:
        """Where the first inf or NaN stands, forward or backward; None where all is finite."""
        delta, s = self.adjoint(), self.tape.s
        if not self._knows_beginning():
            delta, s = (torch.cat((torch.zeros_like(v[:1]), v[1:])) for v in (delta, s))
        weights = None if self.cell is None else self.cell.weights()
        return first_nonfinite(s, delta, x=self.tape.x, weights=weights)

    @cached_property
    def preact_norms(self) -> Tensor:
        """‖dE/da_t‖₂ of the summed loss, (T, B); ‖dE/ds_t‖₂ where the steps' cell is not known."""
        if self.cell is None or not self.cell.has_preact:
            return self.total_norms[1:]
        A = self.cell.preact_size
        norms = torch.zeros_like(self.total_norms[1:])
        for steps, _, adjoints in self._adjoints():
            norms[steps] = vector_norm(adjoints[..., :A])
        return norms

    @property
    def preact_adjoints(self) -> Tensor:
        """The adjoints of a_t, (T, B, A…); dE/ds_t where the steps' cell is not known."""
        if self.cell is None:
            return self.adjoint()[1:]
        found = list(self._adjoints())
        width = max((adjoints.shape[-1] for _, _, adjoints in found), default=self.cell.preact_size)
        laid = self.tape.s.new_zeros(self.T, self.B, width)
        for steps, _, adjoints in found:
            laid[steps] = adjoints
        return laid

    def input_norms(self) -> Tensor:
        """Return ‖dE/dx_t‖₂ of the summed loss, (T, B)."""
        norms = torch.zeros_like(self.total_norms[1:])
        for steps, part, adjoints in self._adjoints():
            norms[steps] = vector_norm(part.cell.input_grad(adjoints))
        return norms

    def _adjoints(self, loss: int | None = None) -> Iterator[tuple[slice, Segment, Tensor]]:
        """Yield, for each part of a known cell, its steps, itself and the adjoints of a_t there."""
        backs = self._backs(loss)[:-1]
        for steps, part, back in zip(self._steps, self._parts, backs, strict=True):
            if part.cell is not None and back is not None and back.adjoints is not None:
                yield steps, part, back.adjoints[0]

    @property
    def S(self) -> int:
        """How many entries the state has."""
        return self.tape.s.shape[-1]

    def follow(self, losses: Tensor) -> Tensor:
        """Return ‖∂E_v/∂s_k‖₂ of one loss a row, all the way to its beginning: (T+1, B).

        Args:
            losses: (B,), which loss v each row is followed for, from 0.

        Raises:
            GraphError: the graph was freed.
        """
        norms = self.norms.new_zeros(self.T + 1, self.B)
        for loss in losses.unique().tolist():
            rows = losses == loss
            norms[:, rows] = vector_norm(self.adjoint(loss))[:, rows]
        return norms

    def _knows_beginning(self) -> bool:
        layout = self.source.relay.layout
        return self._parts[0].cell is not None or self._r in layout.begins.values()

    def _of_loss(self, loss: int) -> Tensor:
        """Return what enters the run from one loss alone, (T, B, S)."""
        g = torch.zeros_like(self.tape.s[1:])
        which = torch.tensor([loss], device=g.device)
        for u, steps in zip(self._numbers, self._steps, strict=True):
            own = self._entries.at(u, which)
            if own is not None:
                g[steps, :, : own.shape[-1]] = own[0]
        return g

    def _backs(self, loss: int | None) -> list[Back | None]:
        """Return what one loss, or their sum, left in each part, and last in the beginning."""
        if loss is None:
            return self.source.of(self._r)
        self._check_loss(loss)
        if self._sent is not None and self._sent[0] == loss:
            return self._sent[1]
        found: list[Back | None] = [None] * (len(self._parts) + 1)

        def visit(u: int, losses: Tensor, back: Back) -> None:
            if u in self._numbers:
                found[self._numbers.index(u)] = back
            elif self.source.relay.layout.begins.get(u) == self._r:
                found[-1] = back

        which = torch.tensor([loss], device="cpu")
        with torch.no_grad():
            self.source.relay.send(self._entries, visit, which=which, deltas=True)
        self._sent = loss, found
        return found

    def _swept(self, loss: int | None) -> tuple[Tensor, Tensor]:
        """Return dE/ds (T+1, B, S) of one loss or of the sum; the second is what is known of a."""
        if loss is not None:
            self._check_loss(loss)
        delta = self.tape.s.new_zeros(self.T + 1, self.B, self.S)
        if not self._knows_beginning():
            delta[0] = torch.nan
        *backs, begun = self._backs(loss)
        for steps, back in zip(self._steps, backs, strict=True):
            if back is not None and back.deltas is not None:
                delta[steps.start + 1 : steps.stop + 1] = back.deltas[0, 1:]
                if steps.start == 0:
                    delta[0] = back.deltas[0, 0]
        if self._r in self.source.relay.layout.begins.values():
            known = begun is not None and begun.deltas is not None
            delta[0] = begun.deltas[0, 1] if known else 0  # pyright: ignore
        return delta, delta
