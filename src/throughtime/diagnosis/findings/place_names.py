"""How places are named: steps from 1, as the layer takes them; tensors by their own indices."""

from __future__ import annotations

import math

from torch import Tensor

from ...flow.nonfinite import NonFinite
from ..evidence import Evidence
from ..look import Seen

__all__ = ["at_input", "many", "nonfinite_evidence", "nonfinite_kind", "span", "step_of"]


def nonfinite_kind(bad: NonFinite | Tensor) -> str:
    """Return "NaN" or "inf", or "−inf" where the number itself is at hand."""
    if isinstance(bad, Tensor):
        return "NaN" if bool(bad.isnan()) else ("inf" if bool(bad > 0) else "−inf")
    return "NaN" if bad.kind == "nan" else "inf"


def nonfinite_evidence(what: str, bad: NonFinite, where: str) -> Evidence:
    """Return the evidence that a number is not finite."""
    value = math.inf if bad.kind == "inf" else math.nan
    return Evidence(f"first non-finite {what}", value, math.inf, where, "eq. 10", True)


def step_of(seen: Seen, step: int) -> str:
    """Return a layer's own step in words; a reverse layer's step 1 is the input's last."""
    if not seen.layer.reverse:
        return f"step {step}"
    return f"step {step} (the input's step {seen.layer.T + 1 - step})"


def at_input(seen: Seen, bad: NonFinite) -> str:
    """Return the index of an entry of the input as the user has it, time first."""
    t = seen.layer.T - bad.step if seen.layer.reverse else bad.step - 1
    return f"input[{t}, {bad.row}, {bad.unit}] (time, row, feature)"


def span(first: int, last: int) -> str:
    """Return steps in words."""
    return f"step {first}" if first == last else f"steps {first} to {last}"


def many(count: int, of: int, what: str) -> str:
    """Return a count in words: "all 8 rows", "3 of 8 rows"."""
    return f"all {of} {what}" if count == of else f"{count} of {of} {what}"
