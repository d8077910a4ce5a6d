"""The findings of a flow: a list that shows itself as a short table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape

from .evidence import indented
from .finding import Finding
from .grouping import Group, grouped

__all__ = ["NOT_SAID", "Findings"]

# Of a model in which nothing was found.
NOT_SAID = (
    "Every step of this batch gets its share of the gradient, and all numbers are finite. That "
    "does not say that the model learns: look at the data and their labels, at the learning rate, "
    "and whether it can learn one small batch by heart; name by lag= how far back your task looks."
)


class Findings(list[Finding]):
    """A list of findings that shows itself as a short table: what several layers share, once.

    Attributes:
        lines: what to paste, by finding, where that can be said in a line.

    Example:
        >>> model = torch.nn.RNN(3, 64, num_layers=2)
        >>> with tt.trace(model) as trace:
        ...     loss = model(torch.randn(100, 2, 3))[0][-1].pow(2).mean()
        >>> print(repr(tt.examine(trace.flow(loss))).splitlines()[0])
        warning: vanishes in l0 and l1
    """

    def __init__(
        self, found: Iterable[Finding] = (), lines: Mapping[Finding, str] | None = None
    ) -> None:
        """Take the findings in their order.

        Args:
            found: the findings.
            lines: what to paste for each.
        """
        super().__init__(found)
        self.lines = dict(lines or {})

    def __repr__(self) -> str:
        """Return a few lines for each kind of finding; only code may be longer than 80 characters.

        A line to paste is indented by eight.
        """
        if not self:
            return f"nothing found\n{indented(NOT_SAID, '    ', '    ')}"
        return "\n".join(_shown(group, self._to_paste(group)) for group in grouped(self))

    def _to_paste(self, group: Group) -> list[str]:
        """Return the lines for all layers of a group, what they share once."""
        same = (f for f in self if (f.code, f.remedy) == (group.first.code, group.first.remedy))
        told = dict.fromkeys(pasted for f in same if (pasted := self.lines.get(f)))
        lines: list[str] = []
        for pasted in told:
            new = pasted.splitlines()
            # A comment above is said once.
            lines += [one for one in new if not (one.startswith("#") and one in lines)]
        return lines

    def _repr_html_(self) -> str:
        """Return a table for a notebook."""
        if not self:
            return f"<p><strong>nothing found.</strong> {NOT_SAID}</p>"
        heads = ("", "code", "layer", "what is wrong", "what to change")
        head = "".join(f"<th>{name}</th>" for name in heads)
        rows = (
            (
                *map(escape, (g.first.severity, g.first.code + _after(g), g.where, g.first.what)),
                escape(g.first.remedy) + _code("\n".join(self._to_paste(g))),
            )
            for g in grouped(self)
        )
        cell = '<td style="text-align:left">{}</td>'.format
        body = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _after(group: Group) -> str:
    """Return the cause of a finding in brackets."""
    return "" if group.first.follows is None else f" (follows from {group.first.follows})"


def _code(lines: str) -> str:
    """Return lines to paste for a notebook."""
    return f"<pre><code>{escape(lines)}</code></pre>" if lines else ""


def _shown(group: Group, lines: list[str]) -> str:
    first = group.first
    head = f"{first.severity}: {first.code} in {group.where}{_after(group)}"
    parts = [indented(head, "", "    "), indented(first.what, "    ", "    ")]
    parts.append(indented(f"What to change: {first.remedy}", "    ", "    "))
    return "\n".join((*parts, *(f"        {one}" for one in lines)))
