"""What several findings look at, computed once for a flow and once for each of its layers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..cells.base import AbstractCell
from ..flow import Flow, LayerView
from ..flow.nonfinite import NonFinite, all_finite, look

__all__ = ["Look", "Seen"]


class Seen:
    """One layer, with what is asked of it more than once.

    Attributes:
        layer: its flow.
        name: its name in the flow, which need not be its own.
        fed_by: the names of the earlier layers that it hangs on directly.
        frozen: whether none of its parameters wants a gradient.
    """

    def __init__(self, name: str, layer: LayerView, fed_by: tuple[str, ...], frozen: bool) -> None:
        """Take the layer, by the name that the flow has for it."""
        self.layer, self.name, self.fed_by, self.frozen = layer, name, fed_by, frozen

    @property
    def called(self) -> str:
        """What a sentence calls it: a model that is one step itself has no path."""
        return self.name or "the model"

    @property
    def cell(self) -> AbstractCell | None:
        """The recurrence; None where the steps are known by their graph alone."""
        return self.layer.cell

    @cached_property
    def finite_x(self) -> bool:
        """Whether the input is finite."""
        return all_finite(self.layer.tape.x)

    @cached_property
    def s(self) -> Tensor:
        """The states, (T+1, B, S); 0 for a beginning that a loop does not show."""
        s = self.layer.tape.s
        return s if 1 in self.layer.jacobian_steps else torch.cat((torch.zeros_like(s[:1]), s[1:]))

    @cached_property
    def finite_s(self) -> bool:
        """Whether the states are finite."""
        return all_finite(self.s)

    @cached_property
    def finite_weights(self) -> bool:
        """Whether the cell's weights are finite."""
        return self.cell is None or all(all_finite(w) for w in self.cell.weights().values())

    @cached_property
    def finite(self) -> bool:
        """Whether input, states and what arrives at them are finite."""
        return self.finite_x and self.finite_s and self.bad_adjoint is None

    @cached_property
    def finite_back(self) -> bool:
        """Whether all is finite, and what enters too, its norms included."""
        return self.finite and all_finite(self.layer.entering_norms)

    @cached_property
    def bad_adjoint(self) -> NonFinite | None:
        """The first dE/ds_t that is not finite; a state that is not known has none."""
        delta = self.layer.adjoint()
        if self.knows_beginning:
            return look(delta, "backward")
        bad = look(delta[1:], "backward")
        return None if bad is None else bad._replace(step=bad.step + 1)

    @property
    def knows_beginning(self) -> bool:
        """Whether the state before the first step is known: not where a loop was marked."""
        active = self.layer.tape.active
        return active is None or bool(active[0].any())

    @cached_property
    def size(self) -> float:
        """The largest root mean square of any feature of the input; 0 where there is none."""
        x = self.layer.tape.x.flatten(0, 1)
        if not x.numel():
            return 0.0
        return float(torch.linalg.vector_norm(x, dim=0).amax()) / len(x) ** 0.5

    @cached_property
    def known(self) -> dict[str, Any]:
        """What a finding leaves here for another one, by its name."""
        return {}

    @cached_property
    def steps(self) -> Tensor:
        """(T, B) bool: the steps that each row takes."""
        active = self.layer.tape.active
        if active is not None:
            return active
        return torch.ones(self.layer.T, self.layer.B, dtype=torch.bool, device=self.device)

    @property
    def device(self) -> torch.device:
        """Where the flow lies."""
        return self.layer.norms.device

    @cached_property
    def enters(self) -> Tensor:
        """(T, B) bool: where anything of any loss enters."""
        return self.layer.entering_norms != 0

    @cached_property
    def reached(self) -> Tensor:
        """(B,) bool: the rows that a loss reaches."""
        return self.enters.any(0)

    @cached_property
    def episode(self) -> Tensor:
        """(T, B): the number of each step's episode, from 0; a reset or a cut begins a new one."""
        begins = torch.zeros(self.layer.T, self.layer.B, dtype=torch.bool, device=self.device)
        if self.layer.tape.reset is not None:
            begins |= self.layer.tape.reset
        for step in self.layer.cuts:
            begins[step - 1] = True
        begins[0] = False
        return begins.long().cumsum(0)

    @cached_property
    def last_entered(self) -> Tensor:
        """For each step the last one of its episode at which anything enters: (T, B), or 0."""
        return self.last_of_episode(self.enters)

    def last_of_episode(self, where: Tensor) -> Tensor:
        """Return for each step the last one of its episode at which ``where`` holds: (T, B), or 0.

        Args:
            where: (T, B) bool.
        """
        count = torch.arange(1, self.layer.T + 1, device=self.device)[:, None] * where
        if self.episode[-1].max() == 0:
            return count.amax(0, keepdim=True).expand_as(count)
        last = torch.zeros_like(count).scatter_reduce_(0, self.episode, count, "amax")
        return last.gather(0, self.episode)


class Look:
    """A flow, with what is asked of it more than once.

    Attributes:
        flow: the flow.
        lag: how many steps back the task needs, where the user knows it.
        seen: its layers, in the order in which they ran.
    """

    def __init__(self, flow: Flow | Mapping[str, LayerView], lag: int | None = None) -> None:
        """Take the flow."""
        self.flow, self.lag = flow, lag
        self.facts = getattr(flow, "facts", None)
        fed = {} if self.facts is None else self.facts.fed_by
        frozen = () if self.facts is None else self.facts.frozen
        self.seen = [
            Seen(name, layer, tuple(fed.get(name, ())), name in frozen)
            for name, layer in flow.items()
        ]

    def feeds(self, name: str) -> list[Seen]:
        """Return the layers that hang directly on one."""
        return [other for other in self.seen if name in other.fed_by]

    @cached_property
    def finite_forward(self) -> bool:
        """Whether parameters, inputs and states are finite everywhere."""
        if self.facts is not None and self.facts.nonfinite:
            return False
        return all(s.finite_weights and s.finite_x and s.finite_s for s in self.seen)

    @cached_property
    def finite_losses(self) -> bool:
        """Whether the losses are finite, as far as they are known."""
        return self.facts is None or all_finite(self.facts.losses)
