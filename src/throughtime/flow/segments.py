"""Stretches of a run that are swept in one piece, and where gradients meet the graph around them.

A segment has a tape, whose steps nothing but the state connects; or it is one step of somebody's
own code (`flow.step_segments`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from ..kernels import losses
from ..node.recording import Call, Gate
from ..schedules import FULL, AbstractSchedule, last_steps
from ..tape import Tape, taken

__all__ = ["Back", "CallSegment", "Node", "Segment", "merged"]

Node = Tensor | GradientEdge


class Back(NamedTuple):
    """What V losses left on their backward pass through a segment.

    Attributes:
        norms: ‖∂E_v/∂s_k‖₂ (V, T+1, B), NaN where s_0 belongs to no segment.
        deltas: ∂E_v/∂s_k (V, T+1, B, S), if asked for.
        adjoints: the adjoints of a_t (V, T, B, ·), if asked for and the cell is known.
        seeds: what goes on to `Segment.ends`.
    """

    norms: Tensor
    deltas: Tensor | None
    adjoints: Tensor | None
    seeds: list[Tensor]


class Segment(ABC):
    """One stretch of a run.

    Attributes:
        name: the run's name in the flow.
        cell: the recurrence; None where only autograd knows the step.
        tape: what its steps kept.
        inner: whether its input comes from the layer below in the same module, step by step.
        reverse: whether its step 1 is the input's last.
        through: the schedule that the layer is trained under.
        gates: the switches of its nodes.
    """

    name: str = ""
    cell: Any
    tape: Tape
    inner = False
    reverse = False
    through: AbstractSchedule = FULL
    gates: tuple[Gate, ...] = ()

    @abstractmethod
    def nodes(self) -> list[Node]:
        """Return where gradients of its states arrive."""

    @abstractmethod
    def merge(self, grads: Sequence[Tensor | None]) -> Tensor:
        """Lay what arrives at `nodes` out by step, (…, T, B, G); not all of them None."""

    @abstractmethod
    def inputs(self) -> list[Tensor]:
        """Return its input as the graph knows it, whole or step by step."""

    @abstractmethod
    def input_seeds(self, g: Tensor) -> list[Tensor]:
        """Return the gradient of the input (…, T, B, I) as `inputs` has it."""

    @abstractmethod
    def initial(self) -> list[Tensor]:
        """Return its initial state as the graph knows it, whole or by parts."""

    @abstractmethod
    def initial_seeds(self, g: Tensor) -> list[Tensor]:
        """Return the gradient of the initial state (…, B, S) as `initial` has it."""

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Let no gradient through its own states, within a block."""
        for gate in self.gates:
            gate.closed = True
        try:
            yield
        finally:
            for gate in self.gates:
                gate.closed = False

    def nothing(self) -> Tensor:
        """Return what arrives where nothing does, (T, B, H)."""
        width = self.tape.s.shape[-1] if self.cell is None else self.cell.hidden_size
        return self.tape.s.new_zeros(self.tape.T, self.tape.B, width)

    def back(self, g: Tensor, *, deltas: bool = False) -> Back:
        """Send V losses back through the segment's steps (eq. 9).

        Args:
            g: what enters them (V, T, B, G).
            deltas: whether the vectors themselves are wanted.
        """
        assert self.cell is not None
        on = bool(self.ends())
        found = losses(self.cell, self.tape, g, deltas=deltas, adjoints=on or deltas)
        assert found.norms is not None
        seeds: list[Tensor] = []
        if on:
            assert found.adjoints is not None
            seeds = self.seeds(self.cell.input_grad(found.adjoints), found.s_0)
        return Back(found.norms, found.deltas, found.adjoints if deltas else None, seeds)

    def ends(self) -> list[Tensor]:
        """Return what it hands a gradient on to."""
        return [end for end in (*self.inputs(), *self.initial()) if end.requires_grad]

    def seeds(self, x: Tensor, s_0: Tensor) -> list[Tensor]:
        """Return the gradients of input and initial state as `ends` has them."""
        both = zip(
            (*self.inputs(), *self.initial()),
            (*self.input_seeds(x), *self.initial_seeds(s_0)),
            strict=True,
        )
        return [g for end, g in both if end.requires_grad]


class CallSegment(Segment):
    """One run of one layer in one direction.

    Attributes:
        linked: what its step is given that comes from another recorded run, by the weight's name.
    """

    def __init__(self, call: Call, name: str) -> None:
        """Take what was recorded."""
        self.linked: dict[str, Tensor] = {}
        self.call, self.name = call, name
        self.cell = call.cell
        self.tape, self.inner, self.reverse = call.tape, call.inner, call.reverse
        self.through, self.gates = call.through, (call.gate,)

    def nodes(self) -> list[Node]:
        """Return the output and the final state."""
        return [self.call.h, self.call.s_T]

    def merge(self, grads: Sequence[Tensor | None]) -> Tensor:
        """Lay what arrives at h and at s_T out by step: (…, T, B, G).

        A row's final state is its state at its own last step, so that is where g of s_T belongs.
        """
        g_h, g_s = grads
        tape, H, S = self.tape, self.cell.hidden_size, self.cell.state_size
        like = g_h if g_h is not None else g_s
        lead = () if like is None else like.shape[: like.dim() - (3 if like is g_h else 2)]
        width = H if g_s is None else S
        g = tape.s.new_zeros(*lead, tape.T, tape.B, width)
        if g_h is not None:
            g[..., :H] += taken(g_h, tape.active)
        if g_s is not None:
            rows = torch.arange(tape.B, device=g.device)
            g[..., last_steps(tape) - 1, rows, :] += g_s
        return g

    def ends(self) -> list[Tensor]:
        """Return what it hands a gradient on to: input, initial state, what its step is given."""
        return [*super().ends(), *self.linked.values()]

    def back(self, g: Tensor, *, deltas: bool = False) -> Back:
        """Send V losses back, and to what its step is given."""
        if not self.linked:
            return super().back(g, deltas=deltas)
        found = super().back(g, deltas=True)
        assert found.adjoints is not None
        grads = [self.cell.param_grads(self.tape, adjoints) for adjoints in found.adjoints]
        more = [torch.stack([own[name] for own in grads]) for name in self.linked]
        return found._replace(seeds=[*found.seeds, *more])

    def inputs(self) -> list[Tensor]:
        """Return x (T, B, I)."""
        return [self.call.x]

    def input_seeds(self, g: Tensor) -> list[Tensor]:
        """Return g itself."""
        return [g]

    def initial(self) -> list[Tensor]:
        """Return s_0 (B, S)."""
        return [self.call.s_0]

    def initial_seeds(self, g: Tensor) -> list[Tensor]:
        """Return g itself."""
        return [g]


def merged(segments: Sequence[Segment], grads: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Return what arrives at each segment, laid out by step (…, T, B, G); None: nothing.

    Args:
        segments: stretches of layers' runs.
        grads: what arrives at their nodes, one segment's after the other's.
    """
    laid: list[Tensor | None] = []
    at = 0
    for segment in segments:
        own = grads[at : at + len(segment.nodes())]
        at += len(own)
        laid.append(None if all(g is None for g in own) else segment.merge(own))
    return laid
