"""The trainings behind a treatment: which copies take part, and what their scores say."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

from torch import nn

from .base import Case, Remedy, copied
from .finished import Finished, Folder, about
from .places import places_of
from .progress_bar import Advance
from .ranking import Interval, interval
from .training import Entrant, Train, halving, rounds
from .treatment import AS_IT_IS, Treatment

__all__ = ["Budget", "finished_of", "train_copies"]


class Budget(NamedTuple):
    """How much is trained.

    Attributes:
        seeds: copies of each remedy.
        updates: of one that comes through to the last round.
        resume: a folder that finished trainings are kept in; None: nowhere.
    """

    seeds: int
    updates: int
    resume: str | os.PathLike[str] | None = None


def train_copies(
    found: Treatment,
    model: nn.Module,
    train: Train,
    budget: Budget,
    finished: Finished,
    advance: Advance,
) -> None:
    """Train copies; scores go into the rows as each round ends, also when it is interrupted.

    Args:
        found: what was measured.
        model: as it is; copies of it are trained.
        train: as `throughtime.treat` has it.
        budget: how much.
        finished: of an earlier run.
        advance: the progress bar.
    """
    flow = found.flow

    def maker(remedy: Remedy) -> Callable[[int], nn.Module]:
        def make(seed: int) -> nn.Module:
            done = found[remedy.name].changes
            case = Case(copied(model), found.losses, flow, found.lag, seed, done)
            return remedy.apply(case, remedy.places(case, places_of(case.model, flow)))[0]

        return make

    def during(remedy: Remedy) -> Callable[[nn.Module], Any]:
        start = remedy.during
        if start is None:
            return lambda given: nullcontext()
        done = found[remedy.name].changes
        return lambda given: start(Case(given, found.losses, flow, found.lag, done=done))

    base = Entrant(AS_IT_IS, lambda seed: copied(model), raises=True)
    entrants = [
        Entrant(row.name, maker(row.remedy), during(row.remedy))
        for row in found.rows[1:]
        if row.remedy is not None and row.error is None
    ]
    seeds, updates = budget.seeds, budget.updates
    finished.begin([entrant.name for entrant in entrants])
    advance("training", seeds * len(rounds(len(entrants), updates)) * (1 + len(entrants)))
    try:
        halving(base, entrants, train, seeds, updates, lambda name: advance(name, 0), finished)
    finally:
        for entrant in (base, *entrants):
            row = found[entrant.name]
            row.error = row.error or entrant.error
            row.updates = entrant.updates
            if entrant.scores:
                row.scores = tuple(entrant.scores[-1])
                row.gain = _gain(entrant, base)


def finished_of(found: Treatment, model: nn.Module, budget: Budget) -> Finished:
    """Return what an earlier run finished: for the same model, batch and budget alone.

    Args:
        found: what was measured of the model as it is.
        model: as it is.
        budget: how much is trained, and where the earlier run kept its scores.

    Raises:
        CheckpointError: that run was another one.
        FileError: its folder cannot be read or written.
    """
    if budget.resume is None:
        return Finished()
    facts = found.flow.facts
    assert facts is not None
    losses = facts.losses
    belongs = about(model, losses, lag=found.lag, seeds=budget.seeds, updates=budget.updates)
    return Folder(budget.resume, belongs)


def _gain(entrant: Entrant, base: Entrant) -> Interval | None:
    """Return the paired differences in the last round that both went through."""
    if entrant is base:
        return None
    number = min(len(entrant.scores), len(base.scores)) - 1
    if number < 0:
        return None
    pairs = zip(entrant.scores[number], base.scores[number], strict=True)
    differences = [0.0 if a == b else a - b for a, b in pairs]
    return interval(differences)
