"""Where the first inf or NaN stands (eq. 10)."""

from __future__ import annotations

import cmath
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..cells.base import AbstractCell
from ..tape import Tape

__all__ = ["NonFinite", "Terms", "all_finite", "first_nonfinite", "in_terms", "look"]


class NonFinite(NamedTuple):
    """The first non-finite number that a layer met, in the order of computation.

    Attributes:
        direction: "forward", in a state s_t; "input", in an x_t over which the states stay finite
            (a gate at its end makes a number of −inf); "weight", likewise in a weight; "backward",
            in dE/ds_t; "gradient", in a term of a weight's gradient or of dE/dx_t, or in their sum.
        step: t. Forward it is the smallest such t, backward the largest: the first one met. 0 of a
            weight, and of a sum whose terms are all finite.
        row: the batch row; 0 where there is none.
        unit: the entry of the state, the input or the weight, the latter's laid out flat.
        kind: "inf" or "nan". Where a step has both, the inf, which the NaN follows from.
    """

    direction: str
    step: int
    row: int
    unit: int
    kind: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain data; ``NonFinite(**data)`` reads it."""
        return self._asdict()

    @property
    def before_the_loss(self) -> bool:
        """Whether it stood there before any gradient was taken."""
        return self.direction in ("forward", "input", "weight")

    @property
    def where(self) -> str:
        """On which way it was met, in words."""
        return WAYS[self.direction]


# What the directions are called.
WAYS = {
    "forward": "in the forward pass",
    "input": "in the input",
    "weight": "in a weight",
    "backward": "in the backward pass",
    "gradient": "in the gradient of a weight or of the input",
}


class Terms:
    """The gradients of a layer's weights and input, and their terms step by step."""

    def __init__(self, cell: AbstractCell, tape: Tape, adjoints: Tensor) -> None:
        """Take the adjoints of a_t (T, B, A) of the summed loss."""
        self.cell, self.tape, self.adjoints = cell, tape, adjoints

    def fit(self, margin: float = 1e6) -> bool:
        """Check whether sizes alone rule out that any term, or their sum, overflows.

        Args:
            margin: what a cell may have for factors besides adjoints, inputs, states and weights.
        """
        if not self.cell.has_preact:
            return False
        parts = (self.tape.x, self.tape.s, *self.cell.weights().values())
        largest = max(1.0, *(_largest(part) for part in parts if part.numel()))
        count = self.tape.T * self.tape.B * self.adjoints.shape[-1]
        bound = _largest(self.adjoints) * largest * count * margin
        return bound < torch.finfo(self.adjoints.dtype).max

    @cached_property
    def whole(self) -> dict[str, Tensor]:
        """dE/dW by name, and dE/dx (T, B, I) as "x"."""
        return self._of(self.tape, self.adjoints)

    def at(self, t: int) -> dict[str, Tensor]:
        """Return what step t adds to them."""
        return self._of(self.tape.steps(t, t), self.adjoints[t - 1 : t])

    def _of(self, tape: Tape, adjoints: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            found = self.cell.param_grads(tape, adjoints)
            return {**found, "x": self.cell.input_grad(adjoints)}


def first_nonfinite(
    s: Tensor,
    delta: Tensor,
    *,
    x: Tensor | None = None,
    weights: Mapping[str, Tensor] | None = None,
    terms: Callable[[], Terms] | None = None,
) -> NonFinite | None:
    """Look for the first non-finite number: forward, then backward, then in the gradients.

    A state is named rather than the input or the weight that spoiled it.

    Args:
        s: states (T+1, B, S).
        delta: dE/ds (T+1, B, S).
        x: inputs (T, B, I), those that no step takes being 0.
        weights: by name.
        terms: gives the gradients' terms; asked only where all else is finite.
    """
    state = look(s, "forward")
    entered = None if x is None else look(x, "input")
    if entered is not None:
        entered = entered._replace(step=entered.step + 1)
    if state and not (entered and entered.step < state.step):
        return state
    return (
        entered
        or state
        or _in_any(weights or {}, "weight", 0)
        or look(delta, "backward")
        or (None if terms is None else in_terms(terms()))
    )


def look(values: Tensor, direction: str) -> NonFinite | None:
    """Return the first non-finite entry of values (T, B, ·): the last step's going backward."""
    if all_finite(values):
        return None
    bad_steps = (~values.isfinite()).flatten(1).any(1).nonzero().flatten()
    t = int(bad_steps[-1] if direction == "backward" else bad_steps[0])
    infinite = values[t].isinf().nonzero()
    where = infinite if len(infinite) else values[t].isnan().nonzero()
    row, unit = where[0].tolist()
    return NonFinite(direction, t, row, unit, "inf" if len(infinite) else "nan")


def all_finite(values: Tensor) -> bool:
    """Check whether all entries are finite; their sum, where it is finite, says so at once."""
    values = values.detach()
    return cmath.isfinite(values.sum().item()) or bool(values.isfinite().all())


def _largest(values: Tensor) -> float:
    """Return the largest |v|, without a copy of the values where they are real."""
    values = values.detach()
    if values.is_complex():
        return float(values.abs().amax())
    low, high = values.aminmax()
    return max(-low.item(), high.item())


def _in_any(tensors: Mapping[str, Tensor], direction: str, step: int) -> NonFinite | None:
    """Return the first non-finite entry of some tensors, each laid out flat."""
    for tensor in tensors.values():
        found = look(tensor.detach().reshape(1, 1, -1), direction)
        if found is not None:
            return found._replace(step=step)
    return None


def in_terms(terms: Terms) -> NonFinite | None:
    """Return the last step whose term is not finite; step 0 where only the sum is not.

    Args:
        terms: of the gradients, where all that they are made of is finite.
    """
    if terms.fit():
        return None
    whole = terms.whole
    found = _in_any(whole, "gradient", 0)
    if found is None:
        return None
    for t in range(terms.tape.T, 0, -1):
        at_step = _in_any(terms.at(t), "gradient", t)
        if at_step is not None:
            return at_step
    return found
