"""The demo's page, put together."""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import Any

from ..files import check_writable, write_whole
from ..packages import need_plotly
from ..report.equations import EQUATIONS
from ..report.figures.words import legend_html, shade, words_html
from ..report.number_text import number, percent
from ..report.page import plot, render
from ..tasks.mention import LONG, SHORT, Mention, Text
from . import figures, overflow_words, words
from .experiment import Study
from .recall import Recalled
from .terminal_tables import first, outcome, right_share

__all__ = ["demo_html", "write_demo"]


def write_demo(study: Study, path: str | os.PathLike[str]) -> Path:
    """Write the demo's page: one HTML file that needs no network.

    Args:
        study: what was measured.
        path: of the file; its folder must exist.

    Raises:
        FileError: it cannot be written.
        PackageError: Plotly is not installed.
    """
    need_plotly()
    target = check_writable(path)
    return write_whole(target, demo_html(study))


def demo_html(study: Study) -> str:
    """Return the page as a string of HTML."""
    before = figures.reach_figure(
        study,
        study.mixed,
        lambda row: row.before,
        "How much of the gradient reaches the mention, before any training?",
        words.reach_before(study),
    )
    after = figures.reach_figure(
        study,
        study.mixed,
        lambda row: row.after,
        "And after it?",
        words.reach_after(study),
    )
    far_caption = " ".join(filter(None, (words.far_only(study), words.far_reach(study))))
    elman = [row for row in study.mixed if row.bounds and row.bounds.loose is not None]
    gated = [row for row in study.mixed if row.bounds and row.bounds.loose is None]
    return render(
        "demo.html.j2",
        title="Jane said hi to ___",
        study=study,
        plan=study.plan,
        short=_sentence(SHORT),
        long=_sentence(LONG),
        claim=words.claim(study),
        rows=[_row(row) for row in study.mixed],
        far_rows=[_row(row) for row in study.far],
        lags=(SHORT.lag, LONG.lag, study.plan.lags[-1]),
        probability=plot(figures.probability(study), "probability"),
        accuracy=plot(
            figures.accuracy(
                study, study.mixed, "How far back is the answer found?", words.distance(study)
            ),
            "accuracy",
        ),
        before=plot(before, "before"),
        after=plot(after, "after"),
        shaded=[_shaded(row, i) for i, row in enumerate(study.mixed)],
        legend=legend_html(),
        far=plot(
            figures.accuracy(study, study.far, "And if every text is long?", far_caption), "far"
        ),
        bounds=[plot(figures.bounds_figure(row), f"bounds-{i}") for i, row in enumerate(elman)],
        gated=[words.bound_sentences(row) for row in gated],
        adjoint=plot(figures.adjoint_norms(study.overflow), "adjoint"),
        overflow=[
            {
                "gain": f"{row.gain:g}",
                "clip": "no" if row.clip is None else f"to norm {row.clip:g}",
                "loss": number(row.loss, 3),
                "norm": number(row.norm, 2),
                "first": first(row),
                "outcome": outcome(row),
            }
            for row in study.overflow
        ],
        clipping=overflow_words.clipping_text(study.overflow),
        settings=_settings(study),
        equations=list(EQUATIONS.items()),
        date=datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
    )


def _sentence(text: Text) -> dict[str, Any]:
    written = str(text).removesuffix(" ___")
    head, _, tail = written.partition(text.answer)
    return {"head": head, "answer": text.answer, "tail": tail, "lag": text.lag}


def _row(row: Recalled) -> dict[str, str]:
    near, far = words.score_at(row, SHORT.lag), words.score_at(row, LONG.lag)
    return {
        "name": row.name,
        "updates": str(row.updates) if row.learned else f"{row.updates}, not learned",
        "near": right_share(near),
        "far": right_share(far),
        "farthest": right_share(row.scores[-1]),
        "before": number(row.before[far.lag], 2),
        "after": number(row.after[far.lag], 2),
    }


def _shaded(row: Recalled, index: int) -> dict[str, str]:
    assert row.sentence is not None
    seen = shade(row.sentence, LONG.words)
    at, end = seen.norms[Mention.mention_step - 1], seen.norms[-1]
    return {
        "name": row.name,
        "html": words_html(seen, mark=[Mention.mention_step]),
        "share": percent(float(at / end)) if end > 0 else "nothing",
    }


def _settings(study: Study) -> list[str]:
    plan, budget = study.plan, study.plan.budget
    settings = [
        f"{plan.names} names, one embedding of {budget.width}, one layer of {budget.hidden} units, "
        "a readout of its last state. The loss stands on the blank alone.",
        f"Adam, rate {budget.rate:g}, {budget.rows} texts an update, gradient clipped to norm "
        f"{budget.clip:g}; seed {plan.seed} for weights and texts, which come to every network in "
        "the same order.",
        f"A network stops early once the mean loss of 50 updates is below {budget.learned:g}; else "
        f"after {plan.mixed.updates} updates (near and far) or {plan.far.updates} (far only).",
        "Near and far: distances drawn so that every doubling is as likely as any other. Words and "
        "punctuation count as one each.",
        f"One seed is one seed: another may order the networks differently. `throughtime demo "
        f"--seed {plan.seed + 1}` runs the next one.",
    ]
    if any(network.name == "chrono LSTM" for network in plan.networks):
        settings.append(
            "Chrono: gate biases drawn for lags up to the longest, as Tallec and Ollivier (2018) "
            "propose; everything else as in an LSTM."
        )
    return settings
