"""A whole axis at once: each position of a marked tensor as a step, with no state between them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..node.recording import Step
from ..tape import Tape
from .step_segments import GraphSegment

__all__ = ["AxisSegment"]


class AxisSegment(GraphSegment):
    """The positions of one tensor: s_k is what stands at position k."""

    def __init__(self, step: Step, name: str) -> None:
        """Take what was recorded; ``step.rows`` is the batch axis, ``step.steps`` that of time."""
        self.step, self.name, self.cell, self.gates = step, name, None, (step.gate,)
        s = self._laid(step.values[0])
        self.tape = Tape(s.new_zeros(*s.shape[:2], 0), torch.cat((s[:1], s)), ())

    def _laid(self, x: Tensor, lead: int = 0) -> Tensor:
        """Return a tensor of the marked one's shape as (…, T, B, F)."""
        rows, steps = self.step.rows, self.step.steps
        assert steps is not None
        if rows is None:
            return x.movedim(lead + steps, lead).unsqueeze(lead + 1).flatten(lead + 2)
        x = x.movedim((lead + steps, lead + rows), (lead, lead + 1))
        return x.unsqueeze(-1).flatten(lead + 2)

    def merge(self, grads: Sequence[Tensor | None]) -> Tensor:
        """Lay what arrives out by step, (…, T, B, F)."""
        (g,) = grads
        assert g is not None
        return self._laid(g, g.dim() - self.step.values[0].dim())

    def _shares(self, g: Tensor) -> list[Tensor]:
        """Return the gradient of all positions (…, T, B, F) in the marked tensor's shape."""
        part, rows, steps = self.step.values[0], self.step.rows, self.step.steps
        assert steps is not None
        axes = [n for n in (steps, rows) if n is not None]
        rest = [n for n in range(part.dim()) if n not in axes]
        lead = g.shape[:-3]
        shape = [part.shape[n] for n in (*axes, *rest)]
        laid = g.reshape(*lead, *shape)
        back = [0] * part.dim()
        for place, n in enumerate((*axes, *rest)):
            back[n] = len(lead) + place
        return [laid.permute(*range(len(lead)), *back)]
