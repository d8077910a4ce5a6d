"""What a trace collects: the runs of recurrent layers and single steps, with what each kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import is_
from types import CodeType
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from ..cells.base import AbstractCell
from ..schedules import FULL, AbstractSchedule
from ..tape import Tape
from .hooks import HookLog

__all__ = ["Call", "Gate", "Key", "Recording", "Step", "Switch"]


class Switch:
    """How the recorded runs let gradients through, in an object of its own.

    The runs' autograd nodes hold this and not the recording: the recording holds the runs, and no
    collector looks for a cycle through autograd's graph.
    """

    cut = False
    exact = False


class Gate:
    """One recorded node's own switch, beside the one for all of them.

    Attributes:
        key: the layer's, or None where it is no state of one.
        closed: whether no gradient passes, whatever the switch says.
        state: the numbers of the node's outputs that are state; None: all. The others always pass.
    """

    __slots__ = ("closed", "key", "state", "switch")

    def __init__(self, switch: Switch, key: Key | None = None) -> None:
        """Begin open."""
        self.switch, self.key = switch, key
        self.closed = False
        self.state: frozenset[int] | None = None

    def stops_at(self, output: int) -> bool:
        """Check whether one of the node's outputs is state."""
        return self.state is None or output in self.state

    @property
    def cut(self) -> bool:
        """Whether no gradient passes."""
        return self.closed or self.switch.cut

    @property
    def exact(self) -> bool:
        """Whether all of it passes, whatever a schedule leaves out."""
        return self.switch.exact


class Key(NamedTuple):
    """What tells one layer's calls from another's.

    Attributes:
        kind: how it is followed: "layer", "step", "mark" or "axis"; "begin" is what a step was
            given, which is no run by itself.
        name: the name in the flow.
    """

    kind: str
    name: str


@dataclass
class Recording:
    """What a trace collects: every run of a recurrent layer, in the order in which they ran.

    Attributes:
        calls: the runs of layers and the single steps.
        switch: while ``switch.cut``, no gradient passes through anything recorded, so that what
            arrives at its outputs is the direct part g alone (eq. 9).
            While ``switch.exact`` all of it passes, whatever a schedule leaves out in training.
        anchor: requires grad, so that outputs do too where every parameter is frozen.
        hooks: users' hooks, from the trace's beginning on.
        skipped: by path, the modules that look recurrent and are not followed, and why.
        copies: each weight as it was, with the tensor and the version that it is a copy of.
        cells: for each module that is one step of a known cell, that cell, with the weights and the
            versions that it is over copies of.
        autocast: the dtype of the autocast that a run or step met, or None.
        blind: by path, the state that a followed module left when it last ran without gradients.
        unchanged: whether a layer of ``torch.nn`` trains by torch's own graph, and is recorded
            beside it.
    """

    calls: list[Call | Step] = field(default_factory=list)
    switch: Switch = field(default_factory=Switch)
    hooks: HookLog = field(default_factory=HookLog)
    anchor: Tensor = field(
        default_factory=lambda: torch.zeros((), device="cpu", requires_grad=True)
    )
    skipped: dict[str, str] = field(default_factory=dict)
    copies: dict[int, tuple[Tensor, int, Tensor]] = field(default_factory=dict)
    autocast: torch.dtype | None = None

    cells: dict[int, tuple[Sequence[Tensor], Sequence[int], AbstractCell]] = field(
        default_factory=dict
    )
    blind: dict[str, tuple[Tensor, ...]] = field(default_factory=dict)
    unchanged: bool = False

    def add(self, call: Call | Step, like: Tensor) -> None:
        """Take down a run or a step, and the precision of the model around it.

        Args:
            call: the run or step.
            like: a tensor where it ran.
        """
        self.calls.append(call)
        device = like.device.type
        if device != "meta" and torch.is_autocast_enabled(device):
            self.autocast = torch.get_autocast_dtype(device)

    def cell_over(
        self, module: nn.Module, weights: Sequence[Tensor], make: Callable[[], AbstractCell]
    ) -> AbstractCell:
        """Return the cell of a module, the same one as long as its weights stay as they are.

        Args:
            module: the module.
            weights: its weights now.
            make: builds the cell over copies of them.
        """
        kept, now = self.cells.get(id(module)), [weight._version for weight in weights]
        if kept is not None and kept[1] == now and all(map(is_, kept[0], weights)):
            return kept[2]
        self.cells[id(module)] = weights, now, (cell := make())
        return cell

    def copy(self, weight: Tensor) -> Tensor:
        """Return a copy of a weight as it is now, one for all calls between two changes of it."""
        if not weight.is_leaf:  # computed anew for every call
            return weight.detach().clone()
        kept = self.copies.get(id(weight))
        if kept is None or kept[0] is not weight or kept[1] != weight._version:
            kept = (weight, weight._version, weight.detach().clone())
            self.copies[id(weight)] = kept
        return kept[2]


@dataclass
class Call:
    """One run of one layer in one direction.

    Attributes:
        key: the layer.
        gate: its node's own switch.
        cell: the recurrence, over copies of the weights as they were.
        tape: what the forward sweep kept.
        x: the input as the graph knows it (T, B, I).
        s_0: the initial state as the graph knows it (B, S).
        h: the output (T, B, H).
        s_T: the final state (B, S).
        inner: whether ``x`` comes from the layer below in the same module.
        reverse: whether its step 1 is the input's last.
        through: the schedule that the layer is trained under.
        given: what the step is given beside its input and has a graph, by the weight's name.
        left: the numbers of the final state (B, S) as they went on, where torch computed them.
    """

    key: Key
    gate: Gate
    cell: AbstractCell
    tape: Tape
    x: Tensor
    s_0: Tensor
    h: Tensor
    s_T: Tensor
    inner: bool
    reverse: bool
    through: AbstractSchedule = FULL
    given: dict[str, Tensor] = field(default_factory=dict)
    left: Tensor | None = None

    @property
    def T(self) -> int:
        """How many steps it took."""
        return self.tape.T


@dataclass(slots=True)
class Step:
    """One step that somebody else's code took: a cell's call, a step module's, or a mark.

    Its state goes on as an alias of what was computed, so that dE/ds counts what comes by way of
    the next step and what is read, and nothing of what was computed on the way to it.

    Attributes:
        key: the layer.
        gate: its alias's own switch.
        given: the floating-point tensors that it was called with, as the graph knows them.
        raw: what it computed, as the graph knows it.
        out: the aliases that went on, of the same shapes.
        values: the same numbers without a graph.
        edges: where gradients of ``out`` arrive, whatever is written into them later.
        cell: the recurrence over copies of the weights, where it is one that is known; else None.
        x: the input of a known cell, as the graph knows it (B, I).
        module: the step's module; None for a mark.
        weights: the module's parameters as this step saw them, where `weight_grad` asks autograd.
        rows: which axis of ``out`` is the batch; None: there is none.
        steps: which axis is time, where one tensor holds all steps; else None.
        entered: where gradients of ``given`` arrive, where a known cell began a sequence.
        site: the place in the code of the call that marked it.
        begin: aliases of what it was given, where a step module may have begun a sequence.
        found: what the module kept in attributes and buffers before the call, by where it stood.
        kept: what it put there, as numbers among its results.
    """

    key: Key
    gate: Gate
    given: tuple[Tensor, ...]
    raw: tuple[Tensor, ...]
    out: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    edges: tuple[GradientEdge, ...]
    cell: AbstractCell | None = None
    x: Tensor | None = None
    module: nn.Module | None = None
    weights: dict[str, Tensor] = field(default_factory=dict)
    rows: int | None = 0
    steps: int | None = None
    entered: tuple[GradientEdge, ...] = ()
    site: tuple[CodeType, int] | None = None
    begin: Step | None = None
    found: dict[str, Tensor] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)

    @property
    def T(self) -> int:
        """How many steps it took: one, where no tensor holds more."""
        return 1 if self.steps is None else self.out[0].shape[self.steps]
