"""What a trace collects: the runs of recurrent layers, with what each kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..cells.base import AbstractCell
from ..errors import UnsupportedError
from ..schedules import FULL, AbstractSchedule
from ..tape import Tape
from .hooks import HookLog

__all__ = ["Call", "Recording", "Switch"]


class Switch:
    """How the recorded runs let gradients through, in an object of its own.

    The runs' autograd nodes hold this and not the recording: the recording holds the runs, and no
    collector looks for a cycle through autograd's graph.
    """

    cut = False
    exact = False


@dataclass
class Recording:
    """What a trace collects: every run of a recurrent layer, in the order in which they ran.

    Attributes:
        calls: the runs.
        switch: while ``switch.cut``, no gradient passes through any recorded run, so that what
            arrives at its outputs is the direct part g alone (eq. 9).
            While ``switch.exact`` all of it passes, whatever a schedule leaves out in training.
        anchor: requires grad, so that outputs do too where every parameter is frozen.
        hooks: users' hooks, from the trace's beginning on.
    """

    calls: list[Call] = field(default_factory=list)
    switch: Switch = field(default_factory=Switch)
    hooks: HookLog = field(default_factory=HookLog)
    anchor: Tensor = field(
        default_factory=lambda: torch.zeros((), device="cpu", requires_grad=True)
    )

    def numbered(self, name: str) -> str:
        """Return a layer's second run its own name: ``l0``, then ``l0@2`` and so on."""
        taken = {call.name for call in self.calls}
        runs = 1
        numbered = name
        while numbered in taken:
            runs += 1
            numbered = f"{name}@{runs}"
        return numbered

    def refuse_linked(self, name: str, given: Mapping[str, Tensor]) -> None:
        """Raise where what a step is given beside its input comes from a run that is recorded.

        A measurement follows a gradient from run to run by inputs and initial states alone, and
        would give the earlier run too little without a word.

        Args:
            name: the layer's name in the flow.
            given: what its step is given, by name.

        Raises:
            UnsupportedError: it does.
        """
        runs = {id(call.h.grad_fn): call.name for call in self.calls}
        for key, tensor in given.items():
            seen, open_ends = set(), [tensor.grad_fn]
            while runs and open_ends:
                node = open_ends.pop()
                if node is None or node in seen:
                    continue
                seen.add(node)
                if id(node) in runs:
                    raise UnsupportedError(
                        f"{name} is given {key!r}, which comes from the traced layer "
                        f"{runs[id(node)]}, and a flow follows a gradient from layer to layer by "
                        "inputs and initial states alone. Trace one of the two, "
                        "tt.trace(model.decoder), or hand it over as input or state."
                    )
                open_ends += [after for after, _ in node.next_functions]


@dataclass
class Call:
    """One run of one layer in one direction.

    Attributes:
        name: the layer's name in the flow.
        cell: the recurrence, over copies of the weights as they were.
        tape: what the forward sweep kept.
        x: the input as the graph knows it (T, B, I).
        s_0: the initial state as the graph knows it (B, S).
        h: the output (T, B, H).
        s_T: the final state (B, S).
        inner: whether ``x`` comes from the layer below in the same module.
        reverse: whether its step 1 is the input's last.
        through: the schedule that the layer is trained under.
    """

    name: str
    cell: AbstractCell
    tape: Tape
    x: Tensor
    s_0: Tensor
    h: Tensor
    s_T: Tensor
    inner: bool
    reverse: bool
    through: AbstractSchedule = FULL
