"""The demo's tables for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..report.number_text import number
from ..tasks.mention import LONG, SHORT
from .experiment import Study
from .overflow import Overflow
from .recall import Recalled, Score

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["outcome", "right_share", "tables"]


def tables(study: Study) -> list[tuple[str, Table]]:
    """Return title and Rich table of both curricula, of the reach, and of the overflow."""
    plan = study.plan
    return [
        (
            f"Taught with {plan.mixed.shortest} to {plan.mixed.longest} words between mention and "
            f"blank, at most {plan.mixed.updates} updates",
            _networks(study, study.mixed),
        ),
        ("How much of the gradient reaches the mention, before that and after", _reach(study)),
        (
            f"Taught with {plan.far.shortest} to {plan.far.longest} words only, at most "
            f"{plan.far.updates} updates",
            _networks(study, study.far),
        ),
        (
            f"A tanh RNN with too much gain, {plan.overflow_updates} updates of plain gradient "
            "descent",
            _overflow(study),
        ),
    ]


def right_share(score: Score) -> str:
    """Return "92 % (89–94)": the share of right answers and its interval."""
    low, high = score.interval
    return f"{100 * score.share:.0f} % ({100 * low:.0f}–{100 * high:.0f})"


def _networks(study: Study, rows: list[Recalled]) -> Table:
    """Return what was learned; a star marks who took all updates without learning the task."""
    table = _table("network", "updates", *(f"right at {lag}" for lag in _lags(study)))
    table.add_column("P(John)\nshort long", justify="right", no_wrap=True)
    for row in rows:
        scores = {score.lag: score for score in row.scores}
        table.add_row(
            row.name,
            f"{row.updates}{' ' if row.learned else '*'}",
            *(right_share(scores[lag]) for lag in _lags(study)),
            "  ".join(f"{chance:.2f}" for chance in row.source),
        )
    return table


def _reach(study: Study) -> Table:
    """Return how much of the gradient at the blank reaches the mention, before and after."""
    lags = _lags(study)
    table = _table(
        "network", *(f"{when}\nat {lag}" for when in ("before", "after") for lag in lags)
    )
    for row in study.mixed:
        values = [found[lag] for found in (row.before, row.after) for lag in lags]
        table.add_row(row.name, *(number(value, 2) for value in values))
    return table


def _lags(study: Study) -> list[int]:
    wanted = {SHORT.lag, LONG.lag, study.plan.lags[-1]}
    return [lag for lag in study.plan.lags if lag in wanted]


def _table(first: str, *columns: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column(first, no_wrap=True, vertical="bottom")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _overflow(study: Study) -> Table:
    table = _table("gain", "clipped", "loss", "gradient")
    table.add_column("first non-finite", no_wrap=True)
    table.add_column("outcome", no_wrap=True)
    for row in study.overflow:
        table.add_row(
            f"{row.gain:g}",
            "no" if row.clip is None else f"to {row.clip:g}",
            number(row.loss, 3),
            number(row.norm, 2),
            first(row),
            outcome(row),
        )
    return table


def first(row: Overflow) -> str:
    """Return where the first non-finite number stands."""
    if row.first is None:
        return "none"
    kind = "NaN" if row.first.kind == "nan" else row.first.kind
    return f"{kind}, {row.first.direction}, step {row.first.step}"


def outcome(row: Overflow) -> str:
    """Return what became of the run."""
    if row.stopped:
        return f"stopped at update {row.updates + 1}"
    return f"largest weight {number(row.largest, 2)}"
