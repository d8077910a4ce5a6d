"""One thing that is wrong with a model, or worth knowing, with its evidence and its remedy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ..flow.export import VERSION, check_format
from .evidence import Evidence, indented

__all__ = ["SEVERITIES", "Finding", "Severity"]

# From the most harmful to what is only worth knowing.
Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
FORMAT = "throughtime.finding"


@dataclass(frozen=True, repr=False)
class Finding:
    """What is wrong, how it is known, and what to change.

    Attributes:
        code: one of `throughtime.diagnosis.findings.FINDINGS`.
        severity: "error", "warning" or "note".
        layer: the name of a flow's layer, or None where it is the whole model's.
        what: one sentence.
        evidence: what was looked at; what decided comes first.
        remedy: one sentence.
        fix: a name in the table of remedies, or None.
        follows: the code of the finding that this one follows from, or None.

    Example:
        >>> model = torch.nn.RNN(3, 64)
        >>> with tt.trace(model) as trace:
        ...     loss = model(torch.randn(100, 2, 3))[0][-1].pow(2).mean()
        >>> found = tt.examine(trace.flow(loss))
        >>> found[0].code, found[0].severity, found[0].layer
        ('vanishes', 'warning', 'l0')
    """

    code: str
    severity: Severity
    layer: str | None
    what: str
    evidence: tuple[Evidence, ...]
    remedy: str
    fix: str | None = None
    follows: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data with a version, ready for JSON: inf and NaN become strings.

        Example:
            >>> finding = tt.Finding("saturated", "note", "l0", "", (), "")
            >>> tt.Finding.from_dict(finding.to_dict()) == finding
            True
        """
        evidence = [evidence.to_dict() for evidence in self.evidence]
        return {"format": FORMAT, "version": VERSION, **vars(self), "evidence": evidence}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Finding:
        """Return the finding that `to_dict` made these data of, also after a way through JSON.

        Args:
            data: what `to_dict` returned.

        Raises:
            InputValueError: another format, or another version of it.
        """
        check_format(data, FORMAT)
        kept = {name: value for name, value in data.items() if name not in ("format", "version")}
        evidence = tuple(Evidence.from_dict(one) for one in data["evidence"])
        return cls(**{**kept, "evidence": evidence})

    def __str__(self) -> str:
        """Return a few lines, none longer than 80 characters."""
        where = f" in {self.layer}" if self.layer else ""
        after = "" if self.follows is None else f" (follows from {self.follows})"
        head = indented(f"{self.severity}: {self.code}{where}{after}", "", "    ")
        what, remedy = self.what, f"What to change: {self.remedy}"
        return "\n".join((head, indented(what, "    ", "    "), indented(remedy, "    ", "    ")))

    __repr__ = __str__
