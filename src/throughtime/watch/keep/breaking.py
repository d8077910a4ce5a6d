"""What broke in a training, at which update and where, in sentences and as plain data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

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
        cause: what taking the step again showed; None where it could not be taken again.
        unseen: why not, in a sentence.
        history: the steps before.
        optimizer: its name and its rates, where it is known.
    """

    step: int
    what: str
    loss: float | None = None
    names: tuple[str, ...] = ()
    data: str | None = None
    loss_node: str | None = None
    cause: Cause | None = None
    unseen: str | None = None
    history: History = ()
    optimizer: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return what is known in a few sentences, from the symptom back to its cause."""
        data = [] if self.data is None else [self.data]
        said = [_HEADS[self.what](self), *data, *origin(self.cause)]
        said += [*self._update(), *self._growth(), *self._again()]
        return " ".join(said)

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
            "cause": cause,
            "unseen": self.unseen,
            "optimizer": dict(self.optimizer),
            "said": str(self),
        }

    def _update(self) -> list[str]:
        """Return what the optimizer did, where it is the update that broke."""
        if self.what != "weight" or not self.optimizer:
            return []
        rates = ", ".join(f"{rate:.3g}" for rate in self.optimizer["rates"])
        return [
            f"The optimizer is {self.optimizer['name']} with a rate of {rates}: lower it, or clip "
            "the gradient's norm before the update."
        ]

    def _growth(self) -> list[str]:
        """Return how weights and gradient had grown before."""
        said = []
        for column, name in ((WEIGHT, "weights"), (GRADIENT, "gradient")):
            known = [
                (row[0], value)
                for row in self.history
                if (value := row[column]) is not None and math.isfinite(value) and value > 0
            ]
            if len(known) < 2:
                continue
            first, (step, last) = median(value for _, value in known[:5]), known[-1]
            if last > GREW * first:
                said.append(
                    f"The largest norm of the {name} had grown from {first:.3g} at step "
                    f"{known[0][0]} to {last:.3g} at step {step}."
                )
        if said and self.what == "loss":
            said.append("Updates that large point to the learning rate: lower it, or clip.")
        return said

    def _again(self) -> list[str]:
        """Return whether taking the step again shows the same."""
        if self.unseen is not None:
            return [f"It was not taken again: {self.unseen}"]
        if self.cause is None or not self.cause.finite or self.what == "weight":
            return []
        return [
            "Taken again on a copy, this step is finite: what broke lies outside of what was kept."
        ]


def origin(cause: Cause | None, findings: bool = True) -> list[str]:
    """Return where a step began to break, in sentences.

    Args:
        cause: what taking it again showed.
        findings: whether the first finding and its remedy are told too.
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
    if cause.operation is not None:
        said.append(str(cause.operation))
    errors = [finding for finding in cause.findings if finding.severity == "error"]
    if errors and findings:
        said += [errors[0].what, f"What to change: {errors[0].remedy}"]
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
