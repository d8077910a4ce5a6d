"""From a flow to a ranked list of findings: the cause before its symptoms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..errors import InputTypeError, InputValueError
from ..flow import Flow, LayerView
from .finding import SEVERITIES, Finding
from .findings import FINDINGS, SEARCHES
from .found import Findings
from .look import Look
from .paste import line

__all__ = ["examine", "found_in"]


def examine(flow: Flow | Mapping[str, LayerView], *, lag: int | None = None) -> Findings:
    """Say what is wrong with a model, the most harmful first; empty where nothing is.

    The data, the wiring, the numbers and the units are looked at before the gradient's reach, since
    each of them can be what it suffers from. A finding that follows from another stands after it
    and names it. `throughtime.diagnosis.findings` has one file a finding, with its thresholds.

    Args:
        flow: what `throughtime.Trace.flow` gave.
        lag: how many steps back the task needs, where that is known.

    Returns:
        A list of `Finding`, which prints as a short table.

    Raises:
        InputTypeError: ``flow`` is no flow, or ``lag`` no integer.
        InputValueError: ``lag`` is below 1.

    Cost:
        one sweep a layer for the summed loss, and two more where something vanishes.

    Example:
        >>> model = torch.nn.LSTM(1, 16)
        >>> with tt.trace(model) as trace:
        ...     loss = model(30_000 + torch.randn(40, 4, 1))[0][-1].pow(2).mean()
        >>> [found.code for found in tt.examine(trace.flow(loss))][0]
        'input-scale'
    """
    wrong = _no_layer(flow)
    if wrong is not None:
        raise InputTypeError(
            f"flow must be what trace.flow(losses) gave, or layers of it by name; got {wrong}."
        )
    if lag is not None and (isinstance(lag, bool) or not isinstance(lag, int)):
        raise InputTypeError(f"lag must be an integer; got {lag!r}.")
    if lag is not None and lag < 1:
        raise InputValueError(f"lag must be at least 1; got {lag}.")
    return found_in(Look(flow, lag))


def found_in(look: Look) -> Findings:
    """Return what is wrong in what is looked at, the most harmful first.

    Args:
        look: at a flow.
    """
    found = [finding for search in SEARCHES for finding in search(look)]
    order = ranked(found, list(look.flow))
    return Findings(order, {f: pasted for f in order if (pasted := _pasted(f, look))})


def _pasted(finding: Finding, look: Look) -> str:
    """Return what to paste for what follows from nothing else; for a note, nothing."""
    if finding.severity == "note" or finding.follows is not None:
        return ""
    return line(finding, look.flow, (finding.layer,) if finding.layer else (), look.lag)


def _no_layer(flow: object) -> str | None:
    """Return what is given in place of a flow; None where it is one."""
    if not isinstance(flow, Mapping):
        return type(flow).__name__
    return next((type(v).__name__ for v in flow.values() if not hasattr(v, "tape")), None)


def ranked(found: list[Finding], layers: list[str]) -> list[Finding]:
    """Return findings in order, each symptom after its cause and naming it.

    A cause is at least as severe as the worst of its symptoms for this purpose.

    Args:
        found: in any order.
        layers: the flow's names, in the order in which they ran.
    """
    order = list(FINDINGS)
    causes = [_cause(f, found) for f in found]
    worth = [SEVERITIES.index(f.severity) for f in found]
    for _ in order:  # a cause may have a cause of its own
        for i, cause in enumerate(causes):
            if cause is not None:
                worth[cause] = min(worth[cause], worth[i])

    def place(i: int) -> tuple[int, int, int]:
        name = found[i].layer
        layer = -1 if name is None else layers.index(name)
        return worth[i], order.index(found[i].code), layer

    ordered = []
    for i in sorted(range(len(found)), key=place):
        cause = causes[i]
        ordered.append(found[i] if cause is None else _after(found[i], found[cause].code))
    return ordered


def _after(symptom: Finding, cause: str) -> Finding:
    """Return a symptom with its cause named; what would help without one is not what helps here."""
    if symptom.code == "loss-nonfinite":  # which says so itself
        return replace(symptom, follows=cause)
    remedy = f"Mend {cause} first, and examine it again: this may be gone then."
    return replace(symptom, follows=cause, remedy=remedy, fix=None)


def _cause(symptom: Finding, found: list[Finding]) -> int | None:
    """Return the place of the first finding that another follows from; a note explains nothing."""
    for code in FINDINGS[symptom.code].causes:
        anywhere, code = code.endswith("*"), code.removesuffix("*")
        for i, other in enumerate(found):
            if other.code != code or other.severity == "note":
                continue
            if anywhere or other.layer == symptom.layer:
                return i
    return None
