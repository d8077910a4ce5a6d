"""The diagnoses of all layers: a dict that shows itself as a short table."""

from __future__ import annotations

from html import escape

from .evidence import WIDTH, Diagnosis, Verdict, indented

__all__ = ["Diagnoses"]

WORST = (Verdict.HEALTHY, Verdict.VANISHING, Verdict.EXPLODING, Verdict.NONFINITE)


class Diagnoses(dict[str, Diagnosis]):
    """A diagnosis for each layer's name; printed, one short paragraph a layer.

    Example:
        >>> model = torch.nn.RNN(3, 64)
        >>> with tt.trace(model) as trace:
        ...     loss = model(torch.randn(100, 2, 3))[0][-1].pow(2).mean()
        >>> print(repr(tt.diagnose(trace.flow(loss))).split()[:2])
        ['l0', 'VANISHING']
    """

    def __repr__(self) -> str:
        """Return verdict, what decided, and what to change, within 80 columns."""
        if not self:
            return "no layers"
        wide = min(max(map(len, self)), WIDTH // 3)
        indent = " " * (wide + 2)
        lines = []
        for name, judged, count in self._worst():
            if len(name) > wide:
                lines += [name]
            head = "" if len(name) > wide else name
            runs = "" if count == 1 else f" (the worst of {count} runs)"
            lines.append(indented(judged.headline() + runs, f"{head:<{wide}}  ", indent))
            lines += [indented(str(one), indent, indent) for one in judged.evidence if one.decides]
            if judged.advice:
                lines.append(indented(judged.advice, indent, indent))
        return "\n".join(lines)

    def _worst(self) -> list[tuple[str, Diagnosis, int]]:
        """Return one run of each layer, that with the worst verdict, and how many there are."""
        runs: dict[str, list[str]] = {}
        for name in self:
            runs.setdefault(name.partition("@")[0], []).append(name)
        shown = []
        for names in runs.values():
            worst = max(names, key=lambda name: WORST.index(self[name].verdict))
            shown.append((worst, self[worst], len(names)))
        return shown

    def _repr_html_(self) -> str:
        """Return a table for a notebook."""
        heads = ("layer", "verdict", "what decided", "what to change")
        head = "".join(f"<th>{name}</th>" for name in heads)
        rows = (
            (
                name,
                judged.headline() + ("" if count == 1 else f" (the worst of {count} runs)"),
                "; ".join(str(one) for one in judged.evidence if one.decides),
                judged.advice,
            )
            for name, judged, count in self._worst()
        )
        body = "".join(
            "<tr>"
            + "".join(f'<td style="text-align:left">{escape(cell)}</td>' for cell in row)
            + "</tr>"
            for row in rows
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
