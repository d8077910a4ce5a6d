"""Stretches of a run that are swept in one piece, and where gradients meet the graph around them.

A segment has a tape, whose steps nothing but the state connects, or is one step of somebody's own
code, which only autograd knows.
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
from ..node.recording import Call, Gate, Step
from ..norms import vector_norm
from ..schedules import FULL, AbstractSchedule, last_steps
from ..tape import Tape, taken

__all__ = ["Back", "CallSegment", "GraphSegment", "JoinedSegment", "Segment", "StepSegment", "flat"]

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
        """Return the gradient of the state before, in the shapes of its parts."""
        return unflat(g, self.step.given, self.step.rows)


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
        parts: list[Tensor | None] = []
        at = 0
        for piece in self.pieces:
            own = grads[at : at + len(piece.nodes())]
            at += len(own)
            parts.append(None if all(g is None for g in own) else piece.merge(own))
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


def flat(parts: Sequence[Tensor], rows: int | None, lead: int = 0) -> Tensor:
    """Return a state's parts side by side, (…, B, S).

    Args:
        parts: tensors of any shape.
        rows: which axis is the batch, counted after the leading ones; None: there is none.
        lead: how many leading axes stand before a part's own.
    """
    laid = [
        part.unsqueeze(lead).flatten(lead + 1)
        if rows is None or part.dim() == lead
        else part.movedim(lead + rows, lead).unsqueeze(-1).flatten(lead + 1)
        for part in parts
    ]
    return laid[0] if len(laid) == 1 else torch.cat(laid, -1)


def unflat(g: Tensor, parts: Sequence[Tensor], rows: int | None) -> list[Tensor]:
    """Return (…, B, S) in the shapes of the parts, as `flat` took them."""
    lead = g.shape[:-2]
    widths = [part.numel() // g.shape[-2] for part in parts]
    laid: list[Tensor] = []
    for own, part in zip(g.split(widths, -1), parts, strict=True):
        if rows is None or part.dim() == 0:
            laid.append(own.reshape(*lead, *part.shape))
            continue
        shape = list(part.shape)
        shape.insert(0, shape.pop(rows))
        laid.append(own.reshape(*lead, *shape).movedim(len(lead), len(lead) + rows))
    return laid
