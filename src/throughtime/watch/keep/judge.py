"""Whether the numbers of a step are finite, and if not, which step it is that broke."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ...flow.nonfinite import all_finite
from .moment import Moment
from .sizes import Sizes, bad_names

__all__ = ["Judge"]

# A loss scaler leaves out a few steps in a row until it has found its scale.
LEFT_OUT = 40


class Judge:
    """Looks at a step's loss, gradient and weights.

    A gradient that is not finite and was not used yet may be one of several that are added up, or
    be left out by a loss scaler: its step is suspected, until an update shows that it was used.

    Attributes:
        suspected: the first such step since the last finite gradient.
    """

    def __init__(self, model: nn.Module) -> None:
        """Begin without a suspicion.

        Args:
            model: whose gradients and weights are looked at.
        """
        self.suspected: Moment | None = None
        self._model, self._sizes, self._since = model, Sizes(), 0

    def measure(
        self, moment: Moment, parameters: Sequence[Tensor], *, gradient: bool, weight: bool
    ) -> None:
        """Take the norms of gradient and weights, in one go and without waiting for a device.

        Args:
            moment: the step.
            parameters: of the model.
            gradient: whether their gradients are measured.
            weight: whether they are measured themselves.
        """
        moment.measured |= gradient
        self._sizes.measure(parameters, gradient=gradient, weight=weight)

    def size(self, parameters: Sequence[Tensor]) -> float | None:
        """Return the largest norm of some weights; None where there are none yet.

        Args:
            parameters: of the model.
        """
        there = [p for p in parameters if not is_lazy(p)]
        self._sizes.measure(there, gradient=False, weight=True)
        return self._sizes.read().get("weight")

    def verdict(
        self, moment: Moment, number: int, *, left: bool = False
    ) -> tuple[Moment, str] | None:
        """Return which step broke and what: "loss", "gradient" or "weight"; None if none did.

        Here a device is waited for.

        Args:
            moment: the present step.
            number: how many steps have begun.
            left: whether it ended without an update.
        """
        moment.sizes.update(self._sizes.read())
        if moment.loss is not None and "loss" not in moment.sizes:
            moment.sizes["loss"] = float(moment.loss.sum())
        bad = [what for what in ("loss", "gradient", "weight") if self._bad(moment, what)]
        if left and bad == ["gradient"]:
            return self._suspect(moment, number)
        if bad:
            use = bad[0] == "gradient" and self.suspected is not None
            return (self._instead_of(moment) if use else moment), bad[0]
        if "gradient" in moment.sizes:
            self.suspected = None
        return None

    def _suspect(self, moment: Moment, number: int) -> tuple[Moment, str] | None:
        """Hold a step until it is known whether its gradient is used."""
        if self.suspected is None:
            self.suspected, self._since = moment, number
            moment.buffers = [None if b is None else b.clone() for b in moment.buffers]
        elif number - self._since > LEFT_OUT:
            return self._instead_of(moment), "gradient"
        return None

    def _instead_of(self, moment: Moment) -> Moment:
        assert self.suspected is not None
        return self.suspected.instead_of(moment)

    def _bad(self, moment: Moment, what: str) -> bool:
        """Check whether a number is not finite; of a norm, only its square may overflow."""
        if math.isfinite(moment.sizes.get(what, 0.0)):
            return False
        if what == "loss":
            return moment.loss is not None and not all_finite(moment.loss)
        return bool(bad_names(self._model, what))
