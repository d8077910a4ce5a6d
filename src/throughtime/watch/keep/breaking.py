"""What broke in a training, at which update and where, in sentences and as plain data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .operation import Operation
from .replaying import Cause

__all__ = ["Break", "History"]

# A row of a history: step, loss, norm of the gradient, norm of the weights; None: not known.
History = Sequence[Sequence[float | None]]
LOSS, GRADIENT, WEIGHT = 1, 2, 3
# How many times a quantity must have grown to be worth telling.
GREW = 10.0


@dataclass(frozen=True)
class Break:
    """The first number of a training that is not finite.

    Attributes:
        step: the update in which it was met.
        what: "loss", "gradient" or "weight".
        loss: the loss of that step; None where it was not seen.
        names: of the parameters whose gradient, or which themselves, are not finite.
        data: where the batch itself is not finite, in a sentence.
        loss_node: what computed the loss, as autograd calls it.
        operation: of the loss, that made inf or NaN of finite numbers, where one was found.
        cause: what taking the step again showed; None where it could not be taken again.
        unseen: why not, in a sentence.
        history: the steps before.
        start: the largest norm of the weights before all of them.
        optimizer: its name and its rates, where it is known.
        processes: how many train together.
    """

    step: int
    what: str
    loss: float | None = None
    names: tuple[str, ...] = ()
    data: str | None = None
    loss_node: str | None = None
    operation: Operation | None = None
    cause: Cause | None = None
    unseen: str | None = None
    history: History = ()
    start: float | None = None
    optimizer: Mapping[str, Any] = field(default_factory=dict)
    processes: int = 1

    def __str__(self) -> str:
        """Return what is known in a few sentences, from the symptom back to its cause."""
        data = [] if self.data is None else [self.data]
        operation = [] if self.operation is None else [str(self.operation)]
        grown = self._grown()
        by_rate = WEIGHT in grown and self.data is None
        said = [_HEADS[self.what](self), *data, *operation, *origin(self.cause, remedy=not by_rate)]
        said += [*grown.values(), *(self._rate() if by_rate or self.what == "weight" else [])]
        return " ".join([*said, *self._again()])

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, without what was measured at length."""
        cause = None
        if self.cause is not None:
            operation = self.cause.operation
            cause = {
                "losses": self.cause.losses.reshape(-1)[:1000].tolist(),
                "operation": None if operation is None else operation._asdict(),
                "first": {name: bad.to_dict() for name, bad in self.cause.first.items()},
                "findings": [finding.to_dict() for finding in self.cause.findings],
                "unseen": self.cause.unseen,
            }
        return {
            "step": self.step,
            "what": self.what,
            "loss": self.loss,
            "names": list(self.names),
            "data": self.data,
            "loss_node": self.loss_node,
            "operation": None if self.operation is None else self.operation._asdict(),
            "cause": cause,
            "unseen": self.unseen,
            "start": self.start,
            "optimizer": dict(self.optimizer),
            "said": str(self),
        }

    def _rate(self) -> list[str]:
        """Return what to do where it is the updates that broke it."""
        if not self.optimizer:
            return ["Updates that large point to the learning rate: lower it, or clip."]
        rates = ", ".join(f"{rate:.3g}" for rate in self.optimizer["rates"])
        return [
            f"The optimizer is {self.optimizer['name']} with a rate of {rates}: lower it, or clip "
            "the gradient's norm before the update."
        ]

    def _grown(self) -> dict[int, str]:
        """Return by column how weights and gradient had grown before, where it is much."""
        said = {}
        for column, name in ((WEIGHT, "weights"), (GRADIENT, "gradient")):
            known = [
                (f"at step {row[0]}", value)
                for row in self.history
                if (value := row[column]) is not None and value > 0
            ]
            if column == WEIGHT and self.start:
                known.insert(0, ("before the first step", self.start))
            if len(known) < 2:
                continue
            (since, first), (step, last) = known[0], known[-1]
            if last > GREW * first:
                said[column] = (
                    f"The largest norm of the {name} had grown from {first:.3g} {since} to "
                    f"{last:.3g} {step}."
                )
        return said

    def _again(self) -> list[str]:
        """Return whether taking the step again shows the same."""
        if self.unseen is not None:
            return [f"It was not taken again: {self.unseen}"]
        if self.cause is None or not self.cause.finite or self.what == "weight":
            return []
        there = ", as in another process" if self.processes > 1 else ""
        return [
            "Taken again on a copy, this step is finite: what broke lies outside of what was "
            f"kept{there}."
        ]


def origin(cause: Cause | None, findings: bool = True, remedy: bool = True) -> list[str]:
    """Return where a step began to break, in sentences.

    Args:
        cause: what taking it again showed.
        findings: whether the first finding is told too.
        remedy: whether its remedy is.
    """
    if cause is None:
        return []
    said = []
    began = cause.began()
    earlier = not bool(cause.losses.isfinite().all())  # than any backward pass
    if began is not None and (began[1].before_the_loss or not earlier):
        name, bad = began
        number = "NaN" if bad.kind == "nan" else "inf"
        said.append(
            f"It began {bad.where}, in {name or 'the model'} at step {bad.step}, batch row "
            f"{bad.row}, unit {bad.unit}: {number}."
        )
    if cause.operation is not None and not (cause.operation.backward and earlier):
        said.append(str(cause.operation))
    errors = [finding for finding in cause.findings if finding.severity == "error"]
    if errors and findings:
        said += [errors[0].what, *([f"What to change: {errors[0].remedy}"] if remedy else [])]
    return said


def _number(value: float | None) -> str:
    if value is None:
        return "not finite"
    return "NaN" if math.isnan(value) else f"{value:.4g}"


def _names(names: Iterable[str], most: int = 3) -> str:
    """Return some names in one line."""
    all_of_them = list(names)
    more = f" and {len(all_of_them) - most} more" if len(all_of_them) > most else ""
    return ", ".join(all_of_them[:most]) + more


def _loss(broken: Break) -> str:
    by = f", computed by {broken.loss_node}" if broken.loss_node else ""
    return f"The loss of step {broken.step} is {_number(broken.loss)}{by}."


def _gradient(broken: Break) -> str:
    loss = "" if broken.loss is None else f" while the loss is {_number(broken.loss)}"
    return f"The gradient of step {broken.step} is not finite in {_names(broken.names)}{loss}."


def _weight(broken: Break) -> str:
    return f"The update of step {broken.step} made {_names(broken.names)} inf or NaN."


_HEADS = {"loss": _loss, "gradient": _gradient, "weight": _weight}
