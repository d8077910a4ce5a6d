"""The report on a flow: what is wrong and what to change; then the measurements."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..diagnosis import Diagnosis, Evidence, Finding, diagnose, examine
from ..errors import InputValueError
from ..files import check_writable, write_whole
from ..flow import LayerView
from ..flow.view import least
from ..packages import need_plotly, need_templates
from . import palette
from .equations import EQUATIONS
from .figures import draw
from .figures.base import Drawing
from .figures.words import draw as draw_words
from .figures.words import legend_html, shade, words_html
from .number_text import number
from .opening import NEXT, cards, growth, headline, reach_text, severity_label
from .over_training import history_of, over_training
from .page import Plot, plot, render, still
from .sentences import LIMITS, MANY, began, biased, layer_facts, meaning, summary
from .treated import check_treatment, section

if TYPE_CHECKING:
    import os

    from ..remedies import Treatment
    from ..watch import History, Monitor

__all__ = ["report_html", "write_report"]

# What is drawn of Jacobians, and so only where a state connects the steps.
OF_A_STATE = ("jacobian", "lyapunov")
# How a drawing is made ready for a page: alive, or still.
Prepare = Callable[[Drawing, str], Plot]
LAYER_KINDS = ("lag", "map", "weights", "jacobian", "lyapunov")


def write_report(
    flow: Mapping[str, LayerView],
    path: str | os.PathLike[str],
    *,
    diagnosis: Mapping[str, Diagnosis] | None = None,
    findings: Sequence[Finding] | None = None,
    treatment: Treatment | None = None,
    words: Sequence[str] | None = None,
    title: str | None = None,
    monitor: Monitor | History | str | os.PathLike[str] | None = None,
) -> Path:
    """Write the report on a flow: one HTML file that needs no network (eq. 1 to 10).

    It begins with what is wrong, how that is known and what to change; then come the curve and, to
    be unfolded, everything that was measured.

    Args:
        flow: what ``trace.flow`` returned; or layers of several flows by names of your own, such
            as ``{"before": flow["l0"], "after": other["l0"]}``, which are shown side by side.
        path: of the HTML file; its folder must exist. A file that is there is replaced.
        diagnosis: what `diagnose` returned for this flow, where it was given other thresholds.
        findings: what `examine` returned for it, where it was told the lag that the task needs.
        treatment: what `throughtime.treat` returned for the same model: a section on what was
            tried, whether it helps, and the lines to paste. Its flow is ``treatment.flow``.
        words: one a step, for text: they are shown shaded by the gradient that reaches them.
        title: of the page.
        monitor: a `Monitor` of the training, its history or the path of its JSON lines, for a
            section "Over training".

    Returns:
        The path written.

    Cost:
        about 2 MB, of which plotly.js, compressed, is 1.9; T = 200 adds 0.3 MB a layer. Seconds,
        most of them for singular values, which are those of some rows whatever B is.

    Raises:
        FileError: the path cannot be written, or the monitor's lines cannot be read; nothing is
            left half-written.
        InputTypeError: ``treatment`` or ``monitor`` is something else.
        InputValueError: ``words`` has another length than the layers have steps, or the monitor has
            measured nothing.
        PackageError: Plotly is not installed.

    Example:
        >>> model = torch.nn.GRU(3, 5)
        >>> with tt.trace(model) as trace:
        ...     losses = model(torch.randn(7, 2, 3))[0].pow(2).mean((1, 2))
        >>> flow = trace.flow(losses)
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> tt.write_report(flow, f"{folder}/flow.html", title="A GRU on noise").name
        'flow.html'
    """
    need_plotly()
    target = check_writable(path)
    html = report_html(
        flow,
        diagnosis=diagnosis,
        findings=findings,
        treatment=treatment,
        words=words,
        title=title,
        monitor=monitor,
    )
    return write_whole(target, html)


def report_html(
    flow: Mapping[str, LayerView],
    *,
    diagnosis: Mapping[str, Diagnosis] | None = None,
    findings: Sequence[Finding] | None = None,
    treatment: Treatment | None = None,
    words: Sequence[str] | None = None,
    title: str | None = None,
    kinds: Sequence[str] = LAYER_KINDS,
    brief: bool = False,
    monitor: Monitor | History | str | os.PathLike[str] | None = None,
) -> str:
    """Return the report as a string of HTML; arguments as `write_report`.

    Args:
        flow: what ``trace.flow`` returned.
        diagnosis: as in `write_report`.
        findings: as in `write_report`.
        treatment: as in `write_report`.
        words: as in `write_report`.
        title: as in `write_report`.
        kinds: which figures each layer gets.
        brief: leave out what only a page of its own needs: limits, equations, and figures that
            move under the hand, for which it has still ones.
        monitor: as in `write_report`.

    Raises:
        InputValueError: the flow has no layer, ``words`` another length than its steps, or a
            monitor has measured nothing.
        InputTypeError: as in `write_report`.
        FileError: the monitor's lines cannot be read.
        PackageError: Plotly is not installed, or Jinja, which is all that a brief one needs.
    """
    (need_templates if brief else need_plotly)()
    if not flow:
        raise InputValueError("the flow has no layer, so there is nothing to report.")
    if treatment is not None:
        check_treatment(treatment)
    training = [] if monitor is None else over_training(history_of(monitor))
    asked = treatment.lag if treatment is not None and treatment.asked else None
    found = examine(flow, lag=asked) if findings is None else findings
    opening = cards(found, flow)
    runs = least(flow)
    if max(runs.values()) > MANY:  # a page of the same again: one run of each layer stands for all
        flow = {name: flow[name] for name in runs}
    if diagnosis is None:
        diagnosis = diagnose(flow)
    prepare = still if brief else plot
    layers = [
        _layer(flow, name, i, diagnosis[name], words, kinds, prepare) for i, name in enumerate(flow)
    ]
    wrong = [card for card in opening if card["label"]["severity"] != "note"]
    return render(
        "report.html.j2",
        title=title or headline(found),
        titled=title is not None,
        summary=summary(flow, runs),
        several=len(layers) > 1,
        cards=opening if wrong else [_sound(), *opening],
        next=NEXT,
        rows=[_row(name, layer, found) for name, layer in flow.items()],
        curve=_curve(flow, partial(still, width=470) if brief else plot),
        treatment=None if treatment is None else section(treatment, prepare),
        layers=layers,
        training=training,
        limits=() if brief else LIMITS,
        equations=() if brief else list(EQUATIONS.items()),
        brief=brief,
        scripts=not brief,
        date=datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
    )


def _sound() -> dict[str, Any]:
    """Return the card of a model in which nothing is wrong."""
    return {
        "label": severity_label("sound"),
        "code": "",
        "title": "What this says, and what it does not",
        "where": "",
        "what": "On this batch every step gets its share of the gradient, all numbers are finite, "
        "and data, wiring and units show no fault. That does not mean that the model "
        "learns your task: it means that the recurrence is not what stops it.",
        "means": "",
        "alike": "",
        "known": "",
        "remedy": "",
        "paste": "",
        "symptoms": [],
    }


def _row(name: str, layer: LayerView, found: Sequence[Finding]) -> dict[str, Any]:
    """Return a layer's line of the summary."""
    own = [one for one in found if one.layer == name]
    severity = own[0].severity if own else "sound"
    passed = not own and layer.first_nonfinite is not None
    return {
        "name": name or "the model",
        "label": severity_label("note" if passed else severity),
        "finding": "inf or NaN passed on"
        if passed
        else ", ".join(dict.fromkeys(one.code for one in own)) or "nothing found",
        "reach": reach_text(layer),
        "growth": growth(layer),
    }


def _curve(flow: Mapping[str, LayerView], prepare: Prepare) -> Plot | None:
    """Return the figure that stands at the top; none where numbers are inf or NaN."""
    if any(layer.first_nonfinite is not None for layer in flow.values()):
        return None
    if all(layer.one_loss for layer in flow.values()):
        drawing = draw(flow, "steps")
    elif len(flow) > 1:
        drawing = draw(flow, "overview")
    else:
        drawing = draw(flow, "lag", bounds=False)
    return None if drawing.empty else prepare(replace(drawing, equations=()), "curve-plot")


def _layer(
    flow: Mapping[str, LayerView],
    name: str,
    index: int,
    diagnosis: Diagnosis,
    words: Sequence[str] | None,
    kinds: Sequence[str],
    prepare: Prepare,
) -> dict[str, Any]:
    """Return what the template needs of one layer."""
    layer = flow[name]
    plots: list[Plot] = []
    # What somebody asked for by name says itself why it cannot be drawn.
    if kinds is LAYER_KINDS and not layer.jacobian_steps:
        kinds = [kind for kind in kinds if kind not in OF_A_STATE]
    for kind in kinds:
        plots.append(prepare(draw(flow, kind, name), f"plot-{index}-{kind}"))
        if kind == kinds[0] and words is not None:
            plots.append(_words(layer, words, f"plot-{index}-words"))
    return {
        "id": f"layer-{index}",
        "name": name,
        "verdict": diagnosis.headline(),
        "label": severity_label(palette.VERDICTS[diagnosis.verdict.name]),
        "meaning": meaning(layer),
        "began": began(layer),
        "advice": diagnosis.advice,
        "evidence": [_evidence(row) for row in diagnosis.evidence],
        "facts": layer_facts(layer),
        "biased": biased(layer),
        "plots": plots,
    }


def _words(layer: LayerView, words: Sequence[str], id: str) -> Plot:
    shaded = shade(layer, words)
    return plot(draw_words(layer, words=words), id, html=words_html(shaded) + legend_html())


def _evidence(row: Evidence) -> dict[str, Any]:
    cited = re.search(r"\d+", row.equation)
    return {
        "quantity": row.quantity,
        "decides": row.decides,
        "value": _value(row.value),
        "threshold": _value(row.threshold),
        "where": row.where,
        "equation": f"eq. {cited[0]}" if cited else row.equation,
        "number": cited[0] if cited and int(cited[0]) in EQUATIONS else "",
    }


def _value(value: float | None) -> str:
    return "–" if value is None else number(value)
