"""The terms of a weight's gradient where the model's own graph connects the steps."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from ..errors import InputValueError, UnsupportedError
from ..norms import vector_norm
from ..schedules import Schedule
from ..schedules.base import check_schedule
from .direct import graph_grads
from .run_steps import RunSteps
from .step_segments import GraphSegment

__all__ = ["RunWeights"]

# How many bytes one question about weights may take at a time.
MEMORY = 256 * 2**20


class RunWeights(RunSteps):
    """The part of `RunFlow` that knows the weights: a cell's, or a step module's parameters."""

    @property
    def weight_names(self) -> tuple[str, ...]:
        """The weights that `weight_grad` knows; those of a step's module by dotted name."""
        if self.cell is not None:
            return tuple(self.cell.weights())
        first = self._parts[0]
        return tuple(first.step.weights) if isinstance(first, GraphSegment) else ()

    def weight_grad(self, name: str, loss: int | None = None, step: int | None = None) -> Tensor:
        """Return one term of ∂E/∂W (eq. 5), as `LayerFlow.weight_grad`.

        Of a step module the terms come from autograd: each step saw an alias of the parameters.

        Args:
            name: one of `weight_names`.
            loss: the loss that the error arose at, from 0; None sums over all.
            step: the step k that it reached, 1 to T; None sums over all.

        Raises:
            InputValueError: no such weight, loss or step.
            GraphError: the graph was freed.
        """
        if name not in self.weight_names:
            known = ", ".join(self.weight_names) or "none: a mark knows no module"
            raise InputValueError(f"{self.name} has no weight {name!r}; it has {known}.")
        if step is not None:
            self._check_step("step", step, 1)
        if self.cell is None:
            return self._graph_grad(name, loss, step)
        total: Tensor | None = None
        for steps, part, adjoints in self._adjoints(loss):
            tape = part.tape
            if step is not None:
                own = step - steps.start
                if not 1 <= own <= tape.T:
                    continue
                adjoints, tape = adjoints[own - 1 : own], tape.steps(own, own)
            with torch.no_grad():
                term = part.cell.param_grads(tape, adjoints)[name]
            total = term if total is None else total + term
        return torch.zeros_like(self.cell.weights()[name]) if total is None else total

    def _graph_grad(self, name: str, loss: int | None, step: int | None) -> Tensor:
        steps = [p.step for p in self._parts if isinstance(p, GraphSegment)]
        chosen = steps if step is None else [steps[step - 1]]
        outputs, seeds = self._seeds(loss)
        like = chosen[0].weights[name]
        total = torch.zeros_like(like, requires_grad=False)
        at_once = max(1, MEMORY // max(1, like.numel() * like.element_size()))
        recording = self.source.relay.recording
        for first in range(0, len(chosen), at_once):
            edges = [get_gradient_edge(s.weights[name]) for s in chosen[first : first + at_once]]
            if outputs:
                for g in graph_grads(recording, outputs, edges, seeds, cut=False):
                    total = total if g is None else total + g
        return total

    def _seeds(self, loss: int | None) -> tuple[list[Tensor], list[Tensor]]:
        """Return what one loss, or their sum, is sent back from, and with what."""
        losses = self.source.losses
        if loss is None:
            return [losses], [torch.ones_like(losses)]
        self._check_loss(loss)
        if self.split == "loss":
            seed = torch.zeros_like(losses)
            seed[loss] = 1
            return [losses], [seed]
        part = self._parts[loss]
        assert isinstance(part, GraphSegment)
        pairs = zip(part.step.raw, part._shares(self._g[loss : loss + 1]), strict=True)
        both = [(raw, seed) for raw, seed in pairs if raw.requires_grad]
        return [raw for raw, _ in both], [seed for _, seed in both]

    @cached_property
    def _steps_of_weights(self) -> dict[str, tuple[Tensor, Tensor]]:
        found: dict[str, tuple[Tensor, Tensor]] = {}
        for name in self.weight_names:
            whole = self.weight_grad(name).flatten().double()
            scale = vector_norm(whole)
            terms = [self.weight_grad(name, step=k).flatten() for k in range(1, self.T + 1)]
            shares = [(term.double() / scale) @ (whole / scale) for term in terms]
            found[name] = torch.stack([vector_norm(t) for t in terms]), torch.stack(shares)
        return found

    def dropped(self, schedule: Schedule) -> dict[str, float]:
        """Return 0 for an exact schedule.

        Raises:
            InputTypeError: it is no schedule.
            UnsupportedError: it cuts, and these steps are the user's own loop, which no schedule
                cuts.
        """
        check_schedule(schedule)
        if schedule.exact:
            return dict.fromkeys(self.weight_names, 0.0)
        raise UnsupportedError(
            f"{self.name} is a loop of the model's own, which a schedule does not cut; compare "
            "weight_grad(name, loss, step) over the steps instead."
        )

    def share_of(self, steps: Tensor) -> dict[str, float]:
        """Return the share of each dE/dW that some steps of rows give; {} where that is not known.

        Args:
            steps: (T, B) bool.
        """
        some: dict[str, Tensor] = {}
        for where, part, adjoints in self._adjoints():
            with torch.no_grad():
                terms = part.cell.param_grads(part.tape, adjoints * steps[where][..., None])
            some = {n: g + some[n] if n in some else g for n, g in terms.items()}
        whole = {n: vector_norm(self.weight_grad(n).flatten()) for n in some}
        return {n: float(vector_norm(g.flatten()) / whole[n]) for n, g in some.items()}
