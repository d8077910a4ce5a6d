"""`treat`: each remedy applied to a copy of a model, measured again, and trained where asked."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from torch import nn

from ..errors import GraphError, InputTypeError, InputValueError, ThroughTimeError
from .base import Case, Losses, Remedy, copied
from .contest import Budget, finished_of, train_copies
from .judging import judge
from .places import places_of
from .progress_bar import Advance, progress
from .ranking import further, harm, helps
from .reach import Measured, longest_lag, measured_reach
from .table import REMEDIES
from .table_text import short_number
from .training import Train
from .treatment import AS_IT_IS, Row, Treatment
from .undisturbed import Before, undisturbed

__all__ = ["treat"]

# The share of the steps that some loss must reach for nothing to be missing.
COVERED = 0.99


def treat(
    model: nn.Module,
    losses: Losses,
    *,
    lag: int | None = None,
    only: str | Iterable[str] | None = None,
    train: Train | None = None,
    seeds: int = 1,
    updates: int = 400,
    resume: str | os.PathLike[str] | None = None,
) -> Treatment:
    """Try each remedy that fits on a copy of a model, measure it again, and say which is best.

    The model, its gradients, the random state and torch's global settings are left as they were,
    also after an exception. After Ctrl-C the rows that were finished are returned.

    Without ``train``, a remedy helps where less is wrong than before: first no inf or NaN, then no
    finding other than of reach (`tt.examine`), then no gradient that grows over 100 times, then at
    least 1 % at the lag in the best units. While a cause stays, reach does not count. Among those
    that are equal in this, what is made for the leading cause comes first, and then the order of
    `REMEDIES` decides, since a larger reach than that is not known to learn better. Reach before
    training does not tell who learns; where there is time, give ``train``.

    Args:
        model: any module that holds recurrent layers; it must be possible to copy it.
        losses: called with a copy, runs it on a batch and returns the losses, as inside
            `tt.trace`: 1-D, one entry a loss, or a scalar. It must use the model that it is given.
            The random state is the same at each call; a generator of your own is not reset.
        lag: how many steps back the task needs; None takes what lies between the last loss of the
            batch and the first step.
        only: names in `REMEDIES`; None tries all that fit.
        train: called as ``train(model, updates)``: trains that copy for so many updates **more**,
            with an optimizer of its own, and returns a score, one number, higher being better (the
            accuracy on held-out data, minus the loss). It is called again on the same copy for the
            next round, and the random state is seeded before each call, alike for all remedies.
            Half of the remedies go on after each round; the model as it is always does. A remedy
            helps where the 95 % interval of the paired differences lies above 0; with one seed
            there is no interval, and the sign decides.
        seeds: how many copies of each are trained.
        updates: how many in all, of one that comes through to the last round.
        resume: a folder where each training that ends leaves its score, and the copies that go on
            their ``state_dict``. With a folder that an interrupted or killed run left, what is
            there is not trained again, and the scores come out as if nothing had happened, if
            ``train`` keeps nothing between its calls but what the model holds. The folder is made
            where there is none.

    Returns:
        A `Treatment`: a table, ``.best``, ``.apply(model)``, ``.code()``, ``.figure()``.

    Raises:
        InputTypeError: an argument of the wrong type, or a score that is no number.
        InputValueError: a lag below 1 or longer than the batch, no such remedy, no seeds;
            ``losses`` that draws its batches from a loader which ends.
        GraphError: ``losses`` runs another model than the one that it is given.
        UnsupportedError: the model cannot be copied.
        CheckpointError: what ``resume`` holds is of another model, batch or budget, or damaged.
        FileError: ``resume`` cannot be read or written.
        KeyboardInterrupt: Ctrl-C before the model as it is had been measured.

    Cost:
        a trace and a few steps for each remedy; `edge-gain` about fifteen traces, `flossing` sixty
        passes over a part of the batch.

    Example:
        >>> model, x = torch.nn.LSTM(2, 16), torch.randn(60, 4, 2)
        >>> found = tt.treat(model, lambda model: model(x)[0][-1].pow(2).mean(), only=["chrono"])
        >>> found.best, found.code().splitlines()[-1]
        ('chrono', 'chrono_(model, longest=59)')
    """
    chosen = _checked(model, losses, lag, only, train, seeds, updates)
    if resume is not None and train is None:
        raise InputValueError("resume takes up trainings again; give train= with it.")
    budget = Budget(seeds, updates, resume)
    with undisturbed() as state, progress() as advance:
        return _treat(model, losses, lag, chosen, train, budget, state, advance)


def _treat(
    model: nn.Module,
    losses: Losses,
    lag: int | None,
    chosen: list[Remedy],
    train: Train | None,
    budget: Budget,
    state: Before,
    advance: Advance,
) -> Treatment:
    def paired(given: nn.Module) -> Any:
        state.restore()
        try:
            return losses(given)
        except StopIteration as end:
            raise InputValueError(
                "losses(model) ran out of batches: it is called several times, and compares "
                "nothing unless on one batch. Draw the batch once, outside of it."
            ) from end
        finally:
            state.settings()

    advance(AS_IT_IS, len(chosen) + 1)
    before = _first(model, paired, lag)
    flow = before.flow
    assert flow is not None
    far = longest_lag(flow)
    if lag is not None and lag > far:
        raise InputValueError(
            f"lag is {lag}, but no loss of this batch has more than {far} steps behind it; give a "
            "longer batch, or a smaller lag."
        )
    first = Row(AS_IT_IS, before, before.at(), before.at())
    found = Treatment(
        [first], paired, lag or max(1, far - 1), lag is not None, trained=train is not None
    )
    found.needed = _needed(before, found.asked)
    finished = finished_of(found, model, budget)  # before the time that the rest takes
    try:
        for remedy in chosen:
            advance(remedy.name, 0)
            row = _try(remedy, model, paired, before, lag, found.lag)
            if row is None:
                found.unfit += (remedy.name,)
            else:
                found.rows.append(row)
        if train is not None:
            own = train  # narrowed for the function below

            def settled(given: nn.Module, count: int) -> Any:
                try:
                    return own(given, count)
                finally:
                    state.settings()

            train_copies(found, model, settled, budget, finished, advance)
    except KeyboardInterrupt:
        found.interrupted = True
    judge(found)
    return found


def _needed(before: Measured, asked: bool) -> bool:
    """Check whether anything is wrong: where every step is reached by some loss, no lag is short.

    A single loss that does not reach far is a fault only where somebody says how far it has to.
    """
    *worse, short, _ = harm(before)
    covered = before.at().coverage >= COVERED
    return bool(before.found) or any(worse) or bool(short and (asked or not covered))


def _first(model: nn.Module, losses: Losses, lag: int | None) -> Measured:
    """Measure the model as it is."""
    given = copied(model)
    try:
        return measured_reach(given, losses, lag)
    except GraphError as error:
        if "no recurrent layer ran" not in str(error):
            raise
        raise GraphError(
            "losses(model) did not run the model that it was given: it must use its argument, a "
            "copy, and not the model outside; and gradients must be on."
        ) from error


def _try(
    remedy: Remedy,
    model: nn.Module,
    losses: Losses,
    before: Measured,
    asked: int | None,
    lag: int,
) -> Row | None:
    """Apply one remedy to a copy and measure it; None where it has no place."""
    assert before.flow is not None
    case = Case(copied(model), losses, before.flow, lag)
    try:
        places = remedy.places(case, places_of(case.model, before.flow))
        if not places:
            return None
        treated, changes = remedy.apply(case, places)
        after = measured_reach(treated, losses, asked)
    except Exception as error:
        if isinstance(error.__cause__, StopIteration):
            raise  # no later one would be measured on this batch either
        own = isinstance(error, ThroughTimeError)
        said = str(error) if own else f"{type(error).__name__}: {error}"
        return Row(remedy.name, error=said.splitlines()[0])
    row = Row(remedy.name, after, before.at(places), after.at(places), tuple(changes))
    was, now = harm(before, places), harm(after, places)
    row.helps, row.further = helps(was, now), further(was, now)
    row.why = _why(row, before)
    return row


def _why(row: Row, before: Measured) -> str:
    """Return what changed, in a few words."""
    assert row.measured is not None and row.before is not None and row.after is not None
    if before.nonfinite and not row.measured.nonfinite:
        return "all is finite with it"
    gone = [code for code in before.found if code not in row.measured.found]
    reached = f"best units {short_number(row.before.best)} → {short_number(row.after.best)}"
    return f"without {', '.join(gone)}; {reached}" if gone else reached


def _checked(
    model: nn.Module,
    losses: Losses,
    lag: int | None,
    only: str | Iterable[str] | None,
    train: Train | None,
    seeds: int,
    updates: int,
) -> list[Remedy]:
    """Return the remedies that are asked for, after a look at all arguments."""
    if not isinstance(model, nn.Module):
        raise InputTypeError(f"model must be an nn.Module; got {type(model).__name__}.")
    for name, given in (("losses", losses), ("train", train)):
        if not callable(given) and not (name == "train" and given is None):
            raise InputTypeError(
                f"{name} must be a function; got {type(given).__name__}."
                + (
                    " losses(model) runs a model and returns its losses."
                    if name == "losses"
                    else ""
                )
            )
    for name, count in (("lag", lag), ("seeds", seeds), ("updates", updates)):
        if name == "lag" and count is None:
            continue
        if isinstance(count, bool) or not isinstance(count, int):
            raise InputTypeError(f"{name} must be an integer; got {count!r}.")
        if count < 1:
            raise InputValueError(f"{name} must be at least 1; got {count}.")
    names = list(REMEDIES) if only is None else [only] if isinstance(only, str) else list(only)
    for name in names:
        if name not in REMEDIES:
            raise InputValueError(f"only must be of {', '.join(REMEDIES)}; got {name!r}.")
    return [REMEDIES[name] for name in names]
