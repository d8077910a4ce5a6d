"""What a verdict rests on."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["Diagnosis", "Evidence", "Verdict"]


class Verdict(Enum):
    """What became of the gradient on its way back through one layer."""

    HEALTHY = "healthy"
    VANISHING = "vanishing"
    EXPLODING = "exploding"
    NONFINITE = "non-finite"


@dataclass(frozen=True)
class Evidence:
    """One quantity that was looked at.

    Attributes:
        quantity: what it is, in words.
        value: its value.
        threshold: what it was held against; None for what stands beside a verdict and never
            decides, like a bound.
        where: the lag, or step, row and unit.
        equation: its number in docs/math.md.
        decides: whether the verdict rests on it.
    """

    quantity: str
    value: float
    threshold: float | None
    where: str
    equation: str
    decides: bool = False

    def __str__(self) -> str:
        """Give one line."""
        held = "stands beside" if self.threshold is None else f"threshold {self.threshold:.3g}"
        return f"{self.quantity} = {self.value:.4g} at {self.where} ({held}; {self.equation})"


@dataclass(frozen=True)
class Diagnosis:
    """The verdict on one layer.

    Attributes:
        layer: the layer's name.
        verdict: one of `Verdict`.
        evidence: what was looked at; what decided comes first.
        advice: what to change, in a sentence or two.
    """

    layer: str
    verdict: Verdict
    evidence: tuple[Evidence, ...]
    advice: str

    def __str__(self) -> str:
        """Give a few lines."""
        lines = [f"{self.layer}: {self.verdict.name}", *(f"  {e}" for e in self.evidence)]
        return "\n".join((*lines, f"  {self.advice}"))
