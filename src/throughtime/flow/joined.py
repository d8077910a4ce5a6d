"""Segments that continue each other, as one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..tape import Tape
from .flattening import flat
from .segments import Node, Segment, merged
from .step_segments import GraphSegment, StepSegment

__all__ = ["JoinedSegment"]


class JoinedSegment(Segment):
    """Segments that continue each other directly, over one tape of all their steps."""

    def __init__(self, pieces: Sequence[Segment], tape: Tape) -> None:
        """Take the pieces in order.

        Args:
            pieces: segments, each of which begins from the state in which the one before ended.
            tape: of all their steps.
        """
        first = pieces[0]
        self.pieces, self.tape, self.name, self.cell = pieces, tape, first.name, first.cell
        self.inner = all(piece.inner for piece in pieces)
        self.reverse, self.through = first.reverse, first.through
        self.gates = tuple(gate for piece in pieces for gate in piece.gates)

    def nodes(self) -> list[Node]:
        """Return the pieces' nodes, one after the other."""
        return [node for piece in self.pieces for node in piece.nodes()]

    def merge(self, grads: Sequence[Tensor | None]) -> Tensor:
        """Lay out by step what arrives at each piece."""
        if all(type(piece) is StepSegment for piece in self.pieces):
            return self._merge_steps(grads)
        parts = merged(self.pieces, grads)
        there = [part for part in parts if part is not None]
        lead, width = there[0].shape[:-3], max(part.shape[-1] for part in there)
        laid = self.tape.s.new_zeros(*lead, self.tape.T, self.tape.B, width)
        first = 0
        for piece, part in zip(self.pieces, parts, strict=True):
            if part is not None:
                laid[..., first : first + piece.tape.T, :, : part.shape[-1]] = part
            first += piece.tape.T
        return laid

    def _merge_steps(self, grads: Sequence[Tensor | None]) -> Tensor:
        """Lay out what arrives at single steps, part by part: thousands of them in one go."""
        first = self.pieces[0]
        assert isinstance(first, GraphSegment)
        parts, rows = first.step.values, first.step.rows
        n = len(parts)
        last, some = max((i % n, i) for i, g in enumerate(grads) if g is not None)
        lead = grads[some].shape[: grads[some].dim() - parts[last].dim()]  # pyright: ignore
        laid: list[Tensor] = []
        for part, own in zip(parts[: last + 1], (grads[i::n] for i in range(n)), strict=False):
            nothing = part.new_zeros(*lead, *part.shape)
            whole = torch.stack([nothing if g is None else g for g in own], len(lead))
            laid.append(flat([whole], rows, len(lead) + 1))
        return torch.cat(laid, -1)

    def inputs(self) -> list[Tensor]:
        """Return the pieces' inputs."""
        return [x for piece in self.pieces for x in piece.inputs()]

    def input_seeds(self, g: Tensor) -> list[Tensor]:
        """Return each piece's share of g."""
        lengths = [piece.tape.T for piece in self.pieces]
        shares = g.split(lengths, -3)
        return [
            seed
            for piece, share in zip(self.pieces, shares, strict=True)
            for seed in piece.input_seeds(share)
        ]

    def initial(self) -> list[Tensor]:
        """Return the first piece's."""
        return self.pieces[0].initial()

    def initial_seeds(self, g: Tensor) -> list[Tensor]:
        """Return what the first piece makes of it."""
        return self.pieces[0].initial_seeds(g)
