"""Single steps as segments: of a cell that is known, or of code that only autograd knows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..node.recording import Step
from ..norms import vector_norm
from ..tape import Tape
from .flattening import flat, unflat
from .segments import Back, Node, Segment

__all__ = ["GraphSegment", "StepSegment"]


class GraphSegment(Segment):
    """One step that only autograd knows: from its raw state back into the graph."""

    def __init__(self, step: Step, name: str) -> None:
        """Take what was recorded."""
        self.step, self.name, self.cell, self.gates = step, name, None, (step.gate,)
        s = flat(step.values, step.rows)
        x = s.new_zeros(1, s.shape[0], 0)
        # The state before it is another segment's, or not known.
        self.tape = Tape(x, torch.stack((s, s)), ())

    def nodes(self) -> list[Node]:
        """Return the aliases that went on."""
        return list(self.step.edges)

    def merge(self, grads: Sequence[Tensor | None]) -> Tensor:
        """Lay what arrives at the aliases side by side, (…, 1, B, S)."""
        there = next(n for n, g in enumerate(grads) if g is not None)
        own = grads[there]
        assert own is not None
        lead = own.shape[: own.dim() - self.step.values[there].dim()]
        whole = [
            part.new_zeros(*lead, *part.shape) if g is None else g
            for g, part in zip(grads, self.step.values, strict=True)
        ]
        return flat(whole, self.step.rows, len(lead)).unsqueeze(-3)

    def inputs(self) -> list[Tensor]:
        """Return nothing: what comes in is known to autograd alone."""
        return []

    def input_seeds(self, g: Tensor) -> list[Tensor]:
        """Return nothing."""
        return []

    def initial(self) -> list[Tensor]:
        """Return what the step computed: its gradient goes back through the step's own graph."""
        return list(self.step.raw)

    def initial_seeds(self, g: Tensor) -> list[Tensor]:
        """Return the gradient of the state (…, B, S) in the shapes of its parts."""
        return unflat(g, self.step.values, self.step.rows)

    def back(self, g: Tensor, *, deltas: bool = False) -> Back:
        """Return the norms of what arrives; how it goes on is autograd's to say."""
        unknown = torch.full_like(g[:, :1], torch.nan)
        laid = torch.cat((unknown, g), 1)
        ends = zip(self.initial(), self._shares(g), strict=True)
        seeds = [share for end, share in ends if end.requires_grad]
        return Back(vector_norm(laid), laid if deltas else None, None, seeds)

    def begin(self, back: Back, grads: Sequence[Tensor | None]) -> None:
        """Put the gradient of the state that the sequence began from where it belongs."""
        if all(g is None for g in grads):
            back.norms[:, 0] = 0
            if back.deltas is not None:
                back.deltas[:, 0] = 0
            return
        s_0 = self.merge(grads)[..., 0, :, :]
        back.norms[:, 0] = vector_norm(s_0)
        if back.deltas is not None:
            back.deltas[:, 0] = s_0

    def _shares(self, g: Tensor) -> list[Tensor]:
        """Return what arrives at all steps (…, T, B, S) in the shapes of `initial`."""
        return self.initial_seeds(g[..., 0, :, :])


class StepSegment(GraphSegment):
    """One step of a known cell, with a tape of its own."""

    def __init__(self, step: Step, name: str, tape: Tape) -> None:
        """Take what was recorded, and the tape that the cell gives of it."""
        super().__init__(step, name)
        assert step.cell is not None and step.x is not None
        self.cell, self.tape = step.cell, tape

    def inputs(self) -> list[Tensor]:
        """Return x_t."""
        assert self.step.x is not None
        return [self.step.x]

    def input_seeds(self, g: Tensor) -> list[Tensor]:
        """Return g of the one step, in the shape of x_t."""
        assert self.step.x is not None
        return [g[..., 0, :, :].reshape(*g.shape[:-3], *self.step.x.shape)]

    def back(self, g: Tensor, *, deltas: bool = False) -> Back:
        """Send V losses back by the cell's own formula."""
        return Segment.back(self, g, deltas=deltas)

    def initial(self) -> list[Tensor]:
        """Return the state that it was given, by parts."""
        return list(self.step.given)

    def initial_seeds(self, g: Tensor) -> list[Tensor]:
        """Return the gradient of the state before, in the shapes of its parts; it may be none."""
        return unflat(g, self.step.given, self.step.rows) if self.step.given else []
