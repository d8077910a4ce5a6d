"""What to try next with a character model, from one batch of it taken apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..diagnosis import Finding, examine
from ..diagnosis.found import Findings
from ..flow import Flow
from .language import Language

__all__ = ["Advice", "advise"]


@dataclass(frozen=True)
class Advice:
    """What was found, how far a loss reaches, and what to change.

    Attributes:
        findings: what `examine` found.
        reach: characters back over which the layer that reaches farthest keeps 1 % of a loss's
            gradient; None where numbers are inf or NaN.
        window: characters of a segment, which is as far as it can reach.
        why: what to change and why, in a sentence or two.
        change: the settings to change, by name; empty where none would help.
    """

    findings: Findings
    reach: int | None
    window: int
    why: str
    change: dict[str, Any]

    @property
    def reached(self) -> str:
        """How far a loss reaches, in a sentence."""
        if self.reach is None:
            return "Numbers are inf or NaN, so no loss reaches back in order."
        return f"A loss reaches {self.reach} of the {self.window} characters of a segment."

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        found = [finding.to_dict() for finding in self.findings]
        return {**vars(self), "findings": found}


def advise(training: Language, flow: Flow) -> Advice:
    """Look at a batch, and say what to try next.

    Args:
        training: the model, at any point of its training.
        flow: what its `Language.flow` returned.

    Example:
        >>> from throughtime.tasks import CharText
        >>> from throughtime.train import Settings
        >>> text = CharText("to be or not to be " * 40, window=40, rows=4)
        >>> training = Language(text, Settings(cell="rnn", hidden=8, window=40, rows=4))
        >>> advise(training, training.flow()[0]).change
        {'cell': 'lstm'}
    """
    findings = examine(flow)
    broken = any(layer.first_nonfinite is not None for layer in flow.values())
    reach = None if broken else max(_reaches(name, flow, findings) for name in flow)
    wrong = [f for f in findings if f.severity != "note" and f.code != "vanishes"]
    if wrong:
        why, change = _of_finding(wrong[0], training)
    else:
        why, change = _of_reach(reach or 0, training)
        why = f"{_course(training)} {why}".strip()
    return Advice(findings, reach, training.settings.window, why, change)


def _course(training: Language) -> str:
    """Return whether it still learns, by its last two looks at the held-out part."""
    losses = [row[2] for row in training.history[-2:]]
    if len(losses) < 2:
        return ""
    if losses[1] < losses[0]:
        return "The validation loss still falls: train on first."
    return "The validation loss no longer falls."


def _reaches(name: str, flow: Flow, findings: Findings) -> int:
    """Return how far back a layer's losses reach: what the finding says, where there is one."""
    for finding in findings:
        known = finding.evidence[:1]
        if finding.layer == name and known and known[0].quantity.startswith("steps back with"):
            return int(known[0].value)
    return int(flow[name].horizon())


def _of_finding(finding: Finding, training: Language) -> tuple[str, dict[str, Any]]:
    """Return what to change against the first thing that is wrong."""
    settings = training.settings
    if finding.code != "explodes":
        return finding.remedy, {}
    if not settings.clip:
        return "The gradient explodes; hold its norm down.", {"clip": 1.0}
    return "The gradient explodes; smaller steps keep it from throwing the weights far off.", {
        "rate": float(f"{settings.rate / 3:.1g}")
    }


def _of_reach(reach: int, training: Language) -> tuple[str, dict[str, Any]]:
    """Return what to change so that a loss reaches further."""
    settings, text = training.settings, training.text
    if reach >= settings.window - 1:
        if len(text) < 3:
            return "It reaches all of a segment, and the text is too short for longer ones.", {}
        return "What ends it is the segment: a longer one lets it reach further.", {
            "window": 2 * settings.window
        }
    if settings.cell == "rnn":
        return "A plain RNN has no gates to hold on by; an LSTM reaches further.", {"cell": "lstm"}
    if settings.longest < settings.window:
        return (
            # War and Peace, 64 units, 400 updates: 2.22 nats instead of 2.10, and no more reach.
            "Only where the text needs what lies further back, begin with gate biases for it "
            "(chrono initialisation); on ordinary prose that learns more slowly at first.",
            {"longest": settings.window},
        )
    return "No other setting makes it reach further.", {}
