"""The demo's tables for the terminal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ...tasks.mention import LONG, SHORT
from ...train.overflow import Overflow
from ...train.recall import Recalled, Score
from ...train.study import Study
from ..numbers import number

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["outcome", "right", "tables"]


def tables(study: Study) -> list[tuple[str, Table]]:
    """Give title and Rich table of both curricula and of the overflow."""
    plan = study.plan
    return [
        (
            f"Taught with texts of {plan.mixed.shortest} to {plan.mixed.longest} words between "
            f"mention and blank, at most {plan.mixed.updates} updates",
            _networks(study, study.mixed),
        ),
        (
            f"Taught with {plan.far.shortest} to {plan.far.longest} words only, at most "
            f"{plan.far.updates} updates",
            _networks(study, study.far),
        ),
        ("A tanh RNN with too much gain, by plain gradient descent", _overflow(study)),
    ]


def right(score: Score) -> str:
    """Give "92 % (89–94)": the share of right answers and its interval."""
    low, high = score.interval
    return f"{100 * score.share:.0f} % ({100 * low:.0f}–{100 * high:.0f})"


def _networks(study: Study, rows: list[Recalled]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    lags = [lag for lag in study.plan.lags if lag in {SHORT.lag, LONG.lag, study.plan.lags[-1]}]
    table.add_column("network", no_wrap=True)
    table.add_column("updates", justify="right")
    for lag in lags:
        table.add_column(f"right at {lag}\n(95 % interval)", justify="right", no_wrap=True)
    table.add_column("P(John)\nshort", justify="right")
    table.add_column("P(John)\nlong", justify="right")
    table.add_column(f"reach at {lags[-2]}\nbefore", justify="right", no_wrap=True)
    table.add_column(f"reach at {lags[-2]}\nafter", justify="right", no_wrap=True)
    for row in rows:
        scores = {score.lag: score for score in row.scores}
        table.add_row(
            row.name,
            f"{row.updates}{'' if row.learned else ' (all)'}",
            *(right(scores[lag]) for lag in lags),
            *(f"{chance:.3f}" for chance in row.source),
            number(row.before[lags[-2]], 2),
            number(row.after[lags[-2]], 2),
        )
    return table


def _overflow(study: Study) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for column in (
        "gain",
        "clipped",
        "first loss",
        "first gradient",
        "first non-finite",
        "outcome",
    ):
        table.add_column(column)
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
    """Give where the first non-finite number stands."""
    if row.first is None:
        return "none"
    kind = "NaN" if row.first.kind == "nan" else row.first.kind
    return f"{kind}, {row.first.direction}, step {row.first.step}"


def outcome(row: Overflow) -> str:
    """Give what became of the run."""
    if row.stopped:
        return f"stopped before update {row.updates + 1}"
    weights = f"largest weight {number(row.largest, 2)}" if math.isfinite(row.largest) else ""
    return f"{row.updates} updates, {weights}, loss {number(row.last_loss, 3)}"
