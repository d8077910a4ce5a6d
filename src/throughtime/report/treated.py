"""The section of a page on what was tried: whether it helps, the table, the lines to paste."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from ..errors import InputTypeError
from ..remedies import Row, Treatment
from ..remedies.ranking import Interval
from ..remedies.table_text import said
from .figures.base import Drawing
from .figures.tried import draw
from .number_text import number, percent, steps
from .opening import severity_label
from .page import Plot

__all__ = ["check_treatment", "section"]

# What the answer in the table looks like: the severity whose colour and sign it takes.
ANSWERS = {"yes": "sound", "no": "note", "further": "note", "?": "note"}
WORDS = {
    "yes": "helps",
    "no": "no help",
    "further": "not enough",
    "?": "not known yet",
}


class Cell(NamedTuple):
    """A number in the table, and what it was before the remedy; empty where there is none."""

    before: str
    after: str


def check_treatment(treatment: object) -> None:
    """Raise unless it is what `throughtime.treat` returned.

    Args:
        treatment: anything.

    Raises:
        InputTypeError: it is something else.
    """
    if not isinstance(treatment, Treatment):
        raise InputTypeError(
            f"treatment must be what tt.treat returned; got {type(treatment).__name__}."
        )


def section(treatment: Treatment, prepare: Callable[[Drawing, str], Plot]) -> dict[str, Any]:
    """Return what the template needs of a treatment.

    Args:
        treatment: what `throughtime.treat` returned.
        prepare: makes a drawing ready for the page: `plot` or `still`.
    """
    tried = treatment.rows[1:]
    best = None if treatment.best is None else treatment[treatment.best]
    columns = SCORED if treatment.trained else MEASURED
    others = [treatment[name] for name in treatment.order if name != treatment.best]
    return {
        "title": _title(treatment),
        "answer": _answer(treatment, best),
        "asked": _asked(treatment),
        "best": None if best is None else _paste(best),
        "others": [_paste(row) for row in others],
        "heads": [head for head, _ in columns],
        "rows": [_row(row, treatment, columns) for row in treatment.rows if row.error is None],
        "notes": _notes(treatment),
        "failed": [f"{row.name} could not be tried: {row.error}" for row in tried if row.error],
        "curve": prepare(draw(treatment), "treatment-plot"),
    }


def _title(treatment: Treatment) -> str:
    if treatment.best is not None:
        return f"What helps: {treatment.best}"
    return "None of the remedies helps" if treatment.needed else "No remedy is needed"


def _answer(treatment: Treatment, best: Row | None) -> str:
    """Return what came out, in a sentence or two."""
    count = len(treatment.rows) - 1
    each = "one remedy was" if count == 1 else f"{count} remedies were"
    how = "measured again and trained" if treatment.trained else "measured again"
    done = f"{each[0].upper()}{each[1:]} tried on a copy of this model and {how}."
    if best is not None:
        assert best.remedy is not None
        return f"{best.remedy.what} {_gained(best, treatment)} {done}"
    if not treatment.needed:
        return f"Nothing is wrong with the model as it is that a remedy could mend. {done}"
    if treatment.trained:
        return f"{done} With none of them does it learn better than as it is."
    return (
        f"{done} None takes a cause away, or brings {percent(0.01)} of the gradient "
        f"{steps(treatment.lag)} back. Look at data and wiring first; then train copies with "
        "tt.treat(…, train=…), which shows what no measurement does."
    )


def _gained(best: Row, treatment: Treatment) -> str:
    """Return what the best remedy changes, in numbers."""
    if best.gain is not None:
        return f"The score changes by {_interval(best.gain)} after {best.updates} updates."
    assert best.before is not None and best.after is not None
    if best.before.nonfinite is not None or best.after.nonfinite is not None:
        return f"With it: {best.why}."
    return (
        f"{_share(best.before.best)} of the gradient reached the best units {steps(treatment.lag)} "
        f"back; with it, {_share(best.after.best)} does."
    )


def _asked(treatment: Treatment) -> str:
    lag = steps(treatment.lag)
    if treatment.asked:
        return f"Asked: what reaches {lag} back, the lag that was named."
    return f"Asked: what reaches {lag} back, the first step of this batch."


def _paste(row: Row) -> dict[str, str]:
    """Return the lines of a remedy, with what it does and where it comes from."""
    assert row.remedy is not None
    remedy = row.remedy
    return {
        "name": row.name,
        "what": remedy.what,
        "code": row.code(),
        "known": f"{remedy.formula}. Source: {remedy.source}. Known to gain: {remedy.gains}",
    }


def _row(row: Row, treatment: Treatment, columns: tuple[Column, ...]) -> dict[str, Any]:
    answer = "" if row.remedy is None else said(row, treatment.trained)
    remedy = row.remedy
    return {
        "name": row.name,
        "what": "" if remedy is None else remedy.what,
        "best": row.name == treatment.best,
        "answer": WORDS.get(answer, ""),
        "label": severity_label(ANSWERS[answer]) if answer else None,
        "cells": [cell(row) for _, cell in columns],
    }


def _notes(treatment: Treatment) -> list[str]:
    """Return what the table cannot say by itself."""
    answers = {said(row, treatment.trained) for row in treatment.rows[1:] if row.error is None}
    found = []
    if "further" in answers:
        found.append(
            "Not enough: ten times as much gets through, but under 1 %, or a cause stays "
            "that lies before it."
        )
    if "?" in answers:
        found.append("Not known yet: what it changes shows in training alone; give train=.")
    if treatment.interrupted:
        found.append("The trial was interrupted: remedies that are not listed were not tried.")
    if treatment.unfit:
        found.append(f"Not made for this model: {', '.join(treatment.unfit)}.")
    return found


def _share(value: float) -> str:
    return percent(value) if math.isfinite(value) else number(value)


def _reached(field: str) -> Callable[[Row], Cell]:
    """Return a column of what reaches, before and after."""

    def cell(row: Row) -> Cell:
        was, now = (
            "inf/NaN" if reach.nonfinite is not None else _share(getattr(reach, field))
            for reach in (row.before, row.after)
            if reach is not None
        )
        return Cell("" if row.remedy is None else was, now)

    return cell


def _cost(row: Row) -> Cell:
    return Cell("", "" if row.measured is None else f"{number(1000 * row.measured.seconds)} ms")


def _score(row: Row) -> Cell:
    return Cell("", "" if row.score is None else number(row.score.mean))


def _interval(gain: Interval) -> str:
    sign = "+" if gain.mean >= 0 else ""
    if not gain.known:
        return f"{sign}{number(gain.mean)} (one seed: no interval)"
    return f"{sign}{number(gain.mean)} ({number(gain.low)} to {number(gain.high)})"


def _gain(row: Row) -> Cell:
    return Cell("", "" if row.gain is None else _interval(row.gain))


def _updates(row: Row) -> Cell:
    return Cell("", str(row.updates) if row.updates else "not trained")


Column = tuple[str, Callable[[Row], Cell]]
MEASURED: tuple[Column, ...] = (
    ("typical unit", _reached("at_lag")),
    ("best units", _reached("best")),
    ("steps covered", _reached("coverage")),
    ("a training step", _cost),
)
SCORED: tuple[Column, ...] = (
    ("score", _score),
    ("gain (95 %)", _gain),
    ("updates", _updates),
    ("best units", _reached("best")),
    ("a training step", _cost),
)
