"""What a verdict rests on."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from ..flow.export import VERSION, check_format, plain

__all__ = ["WIDTH", "Diagnosis", "Evidence", "Verdict", "indented", "percent"]

WIDTH = 80  # of what is printed

FORMAT = "throughtime.diagnosis"


def percent(share: float) -> str:
    """Return a share of rows in words: "40 %", "0.5 %"."""
    return f"{100 * share:.3g} %"


def indented(text: str, first: str, then: str) -> str:
    """Return a text broken into lines for a terminal of 80 columns.

    Args:
        text: one paragraph.
        first: what the first line begins with.
        then: what the others begin with.
    """
    return textwrap.fill(
        text, WIDTH, initial_indent=first, subsequent_indent=then, break_on_hyphens=False
    )


class Verdict(Enum):
    """What became of the gradient on its backward pass through one layer."""

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

    def to_dict(self) -> dict[str, Any]:
        """Return plain data; inf and NaN become strings."""
        return plain(vars(self))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Evidence:
        """Return the evidence that `to_dict` made these data of.

        Args:
            data: of one quantity.
        """
        held = data["threshold"]
        threshold = None if held is None else float(held)
        return cls(**{**data, "value": float(data["value"]), "threshold": threshold})

    def __str__(self) -> str:
        """Return one line."""
        finite = self.threshold is not None and math.isfinite(self.threshold)
        held = f" (limit {self.threshold:.3g})" if finite else ""
        return f"{self.quantity}: {self.value:.4g}{held}, {self.where}"


@dataclass(frozen=True, repr=False)
class Diagnosis:
    """The verdict on one layer.

    Attributes:
        layer: the layer's name.
        verdict: one of `Verdict`.
        evidence: what was looked at; what decided comes first.
        advice: what to change, in a sentence or two.
        shares: for which share of the batch rows each verdict holds; they sum to 1 over the rows
            that a loss reaches. The worst one that holds is the layer's: NONFINITE and EXPLODING
            from a single row on, VANISHING from 5 % of the rows on.
    """

    layer: str
    verdict: Verdict
    evidence: tuple[Evidence, ...]
    advice: str
    shares: Mapping[Verdict, float] = field(default_factory=dict, hash=False)

    def headline(self) -> str:
        """Return the verdict, with the shares of the rows where not all have the same.

        Example:
            >>> shares = {tt.Verdict.EXPLODING: 0.4, tt.Verdict.VANISHING: 0.6}
            >>> tt.Diagnosis("l0", tt.Verdict.EXPLODING, (), "", shares).headline()
            'EXPLODING in 40 % of the rows (VANISHING in 60 %)'
        """
        others = {v: share for v, share in self.shares.items() if v is not self.verdict and share}
        if not others:
            return self.verdict.name
        beside = ", ".join(f"{v.name} in {percent(share)}" for v, share in others.items())
        own = percent(self.shares.get(self.verdict, 0.0))
        return f"{self.verdict.name} in {own} of the rows ({beside})"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data with a version, ready for JSON; docs/export.md describes the format.

        Example:
            >>> judged = tt.Diagnosis("l0", tt.Verdict.HEALTHY, (), "", {tt.Verdict.HEALTHY: 1.0})
            >>> judged.to_dict()["shares"], tt.Diagnosis.from_dict(judged.to_dict()) == judged
            ({'HEALTHY': 1.0}, True)
        """
        return {
            "format": FORMAT,
            "version": VERSION,
            "layer": self.layer,
            "verdict": self.verdict.name,
            "shares": {verdict.name: share for verdict, share in self.shares.items()},
            "evidence": [evidence.to_dict() for evidence in self.evidence],
            "advice": self.advice,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Diagnosis:
        """Return the diagnosis that `to_dict` made these data of, also after a way through JSON.

        Args:
            data: what `to_dict` returned.

        Raises:
            InputValueError: another format, or another version of it.
        """
        check_format(data, FORMAT)
        return cls(
            layer=data["layer"],
            verdict=Verdict[data["verdict"]],
            evidence=tuple(Evidence.from_dict(evidence) for evidence in data["evidence"]),
            advice=data["advice"],
            shares={Verdict[name]: share for name, share in data["shares"].items()},
        )

    def __str__(self) -> str:
        """Return a few lines, none longer than 80 characters."""
        lines = [indented(str(e), "  ", "    ") for e in self.evidence]
        head = indented(f"{self.layer}: {self.headline()}", "", "  ")
        return "\n".join((head, *lines, indented(self.advice, "  ", "  ")))

    __repr__ = __str__
