"""How a page begins: what is wrong, how that is known, what to change; or what sound means."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..diagnosis import Evidence, Finding
from ..diagnosis.findings.coverage import each_step
from ..diagnosis.grouping import Group, grouped, named
from ..diagnosis.paste import line
from ..flow import LayerView
from . import palette
from .number_text import number, percent, steps

__all__ = ["TITLES", "cards", "headline", "how_known", "severity_label"]

# What each code says to somebody who has never heard of it.
TITLES = {
    "weight-nonfinite": "A weight was inf or NaN before the run",
    "input-nonfinite": "The input data hold inf or NaN",
    "initial-state-nonfinite": "The initial state is inf or NaN",
    "input-scale": "The input is so large that it saturates the layer",
    "state-overflow": "The states overflow",
    "loss-nonfinite": "A loss is inf or NaN",
    "loss-gradient-nonfinite": "A finite loss sends back inf or NaN",
    "derivative-nonfinite": "A step has no finite derivative",
    "gradient-overflow": "The gradient overflows on its backward pass",
    "state-on-old-graph": "The state hangs on an earlier batch",
    "rows-without-gradient": "A few rows of the batch get all the gradient",
    "reverse-reads-one-step": "The reverse direction is read where it has seen one step",
    "reads-one-step": "The layer is read where it has seen one step",
    "reads-padding": "The loss reads the state after the text has ended",
    "state-cut": "The state is cut off inside a sequence",
    "dead-units": "Units that are 0 everywhere, and stay so",
    "saturated": "Units or gates stay saturated",
    "half-underflow": "Half precision turns most of the gradient into 0",
    "no-gradient": "No loss reaches this layer",
    "parameter-unreached": "A parameter gets no gradient",
    "explodes": "The gradient explodes on its way to the early steps",
    "vanishes": "The early steps get almost no gradient",
    "horizon": "How far back this reaches",
    "underflow": "The gradient is too small for this number format",
}
# What it does to the model, in a sentence.
MEANS = {
    "vanishes": "What happens in those steps can hardly teach the model anything.",
    "explodes": "Those steps rule the whole update, and may throw the weights far off.",
    "input-scale": "What is saturated hardly reacts to its input any more, so little is learnt.",
    "saturated": "What is saturated hardly reacts any more, so little is learnt.",
    "dead-units": "Such a unit gets no gradient, so it does not come back by itself.",
    "reads-padding": "The gradient has to cross the padding before it meets the text.",
    "state-cut": "Nothing before the cut can be learnt from what comes after it.",
    "no-gradient": "Its weights never change.",
    "parameter-unreached": "It never changes.",
    "input-nonfinite": "One such number makes the loss NaN and, by the next update, every weight.",
    "rows-without-gradient": "The others are not learnt from; often two axes were swapped.",
}
# A note on reach is about less than the warning of the same code.
NOTES = {"vanishes": "How far back this reaches"}

NEXT = (
    "Can it learn one small batch by heart? If the loss does not fall to almost 0 on 8 examples, "
    "look for a mistake in the loss, the labels or the wiring after the recurrent layer.",
    "Do inputs and labels belong together? Look at a few of them as the model gets them.",
    "Is the learning rate right? Try ten times less and ten times more.",
    "How far back does your task need to look? Say so, and it is held against that: "
    "tt.examine(flow, lag=…). A longer sequence may still be too long.",
    "Measure again after some hundred updates: what is sound now may not stay so.",
)


def severity_label(severity: str) -> dict[str, str]:
    """Return how a severity looks, for the template."""
    return {"severity": severity, **palette.SEVERITIES[severity]._asdict()}


def headline(found: Sequence[Finding]) -> str:
    """Return the answer in one line.

    Args:
        found: in their order.
    """
    groups = [group for group in grouped(found) if group.first.severity != "note"]
    causes = [group for group in groups if group.first.follows is None] or groups
    if not causes:
        return "Nothing was found that keeps this model from learning."
    title = TITLES.get(causes[0].first.code, causes[0].first.what.rstrip("."))
    more = len(causes) - 1
    beside = "" if not more else f" And {'one more thing' if more == 1 else f'{more} more things'}."
    return f"{title}.{beside}"


def cards(found: Sequence[Finding], flow: Mapping[str, LayerView]) -> list[dict[str, Any]]:
    """Return a card for each cause, with what follows from it; the most harmful first.

    Args:
        found: in their order.
        flow: the layers.
    """
    groups = grouped(found)
    codes = {group.first.code for group in groups}
    out: list[dict[str, Any]] = []
    by_code: dict[str, dict[str, Any]] = {}
    for group in groups:
        cause = group.first.follows
        if cause in codes and cause in by_code:
            card = by_code[cause]
            card["symptoms"].append(
                {
                    "label": severity_label(group.first.severity),
                    "what": group.first.what,
                    "title": _title(group),
                }
            )
            by_code.setdefault(group.first.code, card)
            continue
        card = _card(group, flow)
        out.append(card)
        by_code[group.first.code] = card
    return out


def _title(group: Group) -> str:
    code = group.first.code
    kept = NOTES if group.first.severity == "note" else {}
    return kept.get(code, TITLES.get(code, code))


def _card(group: Group, flow: Mapping[str, LayerView]) -> dict[str, Any]:
    first = group.first
    others = [name for name in group.layers if name != first.layer]
    return {
        "label": severity_label(first.severity),
        "code": first.code,
        "title": _title(group),
        "where": group.where,
        "what": first.what,
        "means": _means(first),
        "alike": _others(first.layer, others),
        "known": how_known(first.evidence),
        "remedy": first.remedy,
        "paste": line(first, flow, group.layers),
        "symptoms": [],
    }


def _others(first: str | None, others: Sequence[str]) -> str:
    """Return where else the same holds, in words; empty: nowhere."""
    if not others:
        return ""
    own = {name.partition("@")[0] for name in (first or "", *others)}
    if len(own) > 1:
        return named(others)
    return "its other run" if len(others) == 1 else f"its {len(others)} other runs"


def _means(finding: Finding) -> str:
    """Return what a finding does to the model, where that was measured."""
    if finding.severity == "note":
        return ""
    moved = any("share of dE/d" in one.quantity for one in finding.evidence)
    return "" if finding.code == "vanishes" and not moved else MEANS.get(finding.code, "")


def how_known(evidence: Sequence[Evidence]) -> str:
    """Return what decided, in a sentence.

    Args:
        evidence: of a finding.
    """
    for one in evidence:
        if not one.decides:
            continue
        if not math.isfinite(one.value):
            return f"Looked at directly: {one.quantity}, {one.where}."
        held = one.threshold
        limit = "" if held is None or not math.isfinite(held) else f" (limit: {number(held)})"
        return f"Measured: {one.quantity}: {number(one.value)}{limit}; {one.where}."
    return ""


def reach_text(layer: LayerView) -> str:
    """Return how far back the gradient of a layer keeps 1 %, for a table.

    Args:
        layer: the layer.
    """
    if layer.first_nonfinite is not None:
        return "not measurable"
    if layer.one_loss:
        each = each_step(layer)
        return f"{each.reached} of {steps(each.steps)}"
    return f"{layer.horizon_text()} of {steps(len(layer.lag_profile()) - 1)}"


def growth(layer: LayerView) -> str:
    """Return what becomes of the gradient over the steps measured, for a table.

    Args:
        layer: the layer.
    """
    if layer.first_nonfinite is not None:
        return "inf or NaN"
    if layer.one_loss:
        return _of_one_loss(layer)
    profile = layer.lag_profile()
    last = len(profile) - 1 if layer.window_ends is None else layer.window_ends
    end = float(profile[last])
    if math.isnan(end):
        return "–"
    return f"{_change(end)} after {steps(last)}"


def _of_one_loss(layer: LayerView) -> str:
    """Return what the first step gets, beside the last ones."""
    each = each_step(layer).level
    there = each.isfinite().nonzero().flatten()
    if not len(there):
        return "–"
    first = int(there[0])
    return f"{_change(float(each[first]))} at step {first + 1}"


def _change(end: float) -> str:
    """Return what is left of 1, in words."""
    if end < 2:
        return f"{percent(end)} is left"
    return f"grows {f'{end:,.0f}' if end < 1e6 else number(end, 2)}-fold"
