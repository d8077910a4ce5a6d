"""What a trace collects: the runs of recurrent layers, with what each kept."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..cells.base import AbstractCell
from ..schedules import FULL, AbstractSchedule
from ..tape import Tape
from .hooks import HookLog

__all__ = ["Call", "Recording", "Switch"]


class Switch:
    """How the recorded runs let gradients through.

    It is a separate object because the runs' autograd nodes hold it. Were they to hold the
    recording, which holds the runs, the cycle through autograd's graph would never be collected.
    """

    cut = False
    exact = False


@dataclass
class Recording:
    """What a trace collects: every run of a recurrent layer, in the order in which they ran.

    Attributes:
        calls: the runs.
        switch: while ``switch.cut``, no gradient passes through any recorded run, so that only
            the direct part g arrives at its outputs (eq. 9).
            While ``switch.exact`` all of it passes, even what a schedule leaves out in training.
        anchor: requires grad, so that outputs do too even if every parameter is frozen.
        hooks: users' hooks, logged from the trace's beginning on.
    """

    calls: list[Call] = field(default_factory=list)
    switch: Switch = field(default_factory=Switch)
    hooks: HookLog = field(default_factory=HookLog)
    anchor: Tensor = field(
        default_factory=lambda: torch.zeros((), device="cpu", requires_grad=True)
    )

    def numbered(self, name: str) -> str:
        """Return a name for a layer's run: ``l0`` for the first, then ``l0@2`` and so on."""
        taken = {call.name for call in self.calls}
        runs = 1
        numbered = name
        while numbered in taken:
            runs += 1
            numbered = f"{name}@{runs}"
        return numbered


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
