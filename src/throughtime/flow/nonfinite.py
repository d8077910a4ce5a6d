"""Where the first inf or NaN stands (eq. 10)."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

__all__ = ["NonFinite", "first_nonfinite"]


class NonFinite(NamedTuple):
    """The first non-finite number that a sweep met.

    Attributes:
        direction: "forward", in a state s_t; or "backward", in dE/ds_t.
        step: t. Forward it is the smallest such t, backward the largest: the first one met.
        row: the batch row.
        unit: the entry of the state.
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


def first_nonfinite(s: Tensor, delta: Tensor) -> NonFinite | None:
    """Look for the first non-finite number, forward in the states, then backward in the adjoints.

    Args:
        s: states (T+1, B, S).
        delta: dE/ds (T+1, B, S).
    """
    return _look(s, "forward") or _look(delta, "backward")


def _look(values: Tensor, direction: str) -> NonFinite | None:
    bad_steps = (~values.isfinite()).flatten(1).any(1).nonzero().flatten()
    if not len(bad_steps):
        return None
    t = int(bad_steps[0] if direction == "forward" else bad_steps[-1])
    infinite = values[t].isinf().nonzero()
    where = infinite if len(infinite) else values[t].isnan().nonzero()
    row, unit = where[0].tolist()
    return NonFinite(direction, t, row, unit, "inf" if len(infinite) else "nan")
