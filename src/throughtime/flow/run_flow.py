"""The flow of a run that only the model's own graph connects: a decoder, a mark, an axis."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..errors import UnsupportedError
from .run_jacobians import RunJacobians
from .run_weights import RunWeights

__all__ = ["AxisFlow", "RunFlow"]


class RunFlow(RunWeights, RunJacobians):
    """A `LayerFlow` over steps that the user's own code connects.

    Between two states may lie whatever somebody wrote, a readout that is fed back among it.
    ∂s_t/∂s_k is taken along all of it.
    """


class AxisFlow(RunFlow):
    """A `LayerFlow` of a marked axis: what each position gets, with no state between positions."""

    @property
    def kind(self) -> str:
        """What the steps are."""
        return "axis"

    @property
    def jacobian_steps(self) -> range:
        """None: no state connects the steps."""
        return range(0)

    def jacobian_product(self, to: int, since: int, *, rows: Sequence[int] | None = None) -> Tensor:
        """Raise: a position is no state that the next one comes from.

        Args:
            to: the later step.
            since: the earlier one.
            rows: batch rows.

        Raises:
            UnsupportedError: always.
        """
        raise UnsupportedError(
            f"{self.name} marks positions of one tensor, not a state that one step hands to the "
            "next, so there is no Jacobian; norms, adjoint and lag_profile are what it has."
        )

    def lyapunov(
        self, n: int | None = None, *, since: int = 0, rows: Sequence[int] | None = None
    ) -> Tensor:
        """Raise: without a state there are no exponents.

        Args:
            n: how many.
            since: the step before the first.
            rows: batch rows.

        Raises:
            UnsupportedError: always.
        """
        return self.jacobian_product(1, 0)
