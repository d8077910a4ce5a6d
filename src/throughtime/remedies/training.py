"""Copies of a model trained beside one another: successive halving over paired seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ..errors import InputTypeError
from .finished import Finished, Outcome, Turn
from .undisturbed import seeded

__all__ = ["Entrant", "Train", "halving", "rounds"]

Train = Callable[[nn.Module, int], Any]
MakeModel = Callable[[int], nn.Module]


@dataclass
class Entrant:
    """A model as it is, or with a remedy, that takes part.

    Attributes:
        name: of the remedy, or "as it is".
        make: builds the copy of a seed, treated.
        during: of a copy, what is on while it is trained.
        scores: one list a round, one score a seed.
        updates: how many each copy has had.
        error: what its training raised.
        models: by seed, while it takes part: a copy, and how many rounds it has gone through.
        raises: whether what its training raises is the caller's to see.
    """

    name: str
    make: MakeModel
    during: Callable[[nn.Module], Any] = lambda model: nullcontext()
    scores: list[list[float]] = field(default_factory=list)
    updates: int = 0
    error: str | None = None
    models: dict[int, tuple[nn.Module, int]] = field(default_factory=dict, repr=False)
    raises: bool = False


def rounds(entrants: int, updates: int) -> list[int]:
    """Return how many updates each round adds: as many rounds as halvings, the total doubling.

    Args:
        entrants: how many remedies begin.
        updates: in all, of one that comes through to the end.

    Example:
        >>> rounds(8, 400), rounds(1, 400)
        ([50, 50, 100, 200], [400])
    """
    count = 1 + math.ceil(math.log2(max(1, entrants)))
    ends = [max(1, round(updates / 2 ** (count - 1 - i))) for i in range(count)]
    return [end - begun for begun, end in zip([0, *ends], ends, strict=False) if end > begun]


def halving(
    base: Entrant,
    entrants: Sequence[Entrant],
    train: Train,
    seeds: int,
    updates: int,
    advance: Callable[[str], None],
    finished: Finished | None = None,
) -> None:
    """Train the model as it is and each entrant; after each round the better half goes on.

    The random state is set to a number of seed and round before each call of ``train``, the same
    for all, so that what ``train`` draws from it is the same for all. The model as it is goes
    through all rounds, since the others are compared with it.

    Args:
        base: the model as it is.
        entrants: with remedies.
        train: trains a model for some updates more, and scores it.
        seeds: how many of each.
        updates: in all.
        advance: is called with a name after each training.
        finished: what an earlier run finished, and where this one keeps what it finishes.

    Raises:
        InputTypeError: ``train`` returns no number.
    """
    left, plan = list(entrants), rounds(len(entrants), updates)
    contest = _Contest(train, seeds, plan, advance, finished or Finished())
    for number in range(len(plan)):
        for entrant in (base, *left):
            contest.round(entrant, number)
        ranked = sorted((e for e in left if e.error is None), key=lambda e: -_mean(e.scores[-1]))
        last = number == len(plan) - 1
        staying = [] if last else ranked[: math.ceil(len(ranked) / 2)]
        for entrant in left:
            if entrant not in staying:
                entrant.models.clear()
                contest.finished.forget(entrant.name)
        left = [e for e in left if e in staying]
    contest.finished.forget(base.name)


@dataclass
class _Contest:
    """What is the same for all entrants and rounds; attributes as `halving` has them."""

    train: Train
    seeds: int
    plan: Sequence[int]
    advance: Callable[[str], None]
    finished: Finished

    def round(self, entrant: Entrant, number: int) -> None:
        """Train each copy of an entrant for one round, as far as that is not known already."""
        scores = []
        for seed in range(self.seeds):
            turn = Turn(entrant.name, seed, number)
            outcome = self.finished.read(turn)
            if outcome is None:
                outcome = self._trained(entrant, turn)
                goes_on = outcome.error is None and number < len(self.plan) - 1
                model = entrant.models[seed][0] if goes_on else None
                self.finished.write(turn, outcome, model)
            if outcome.error is not None:
                entrant.error = outcome.error
                entrant.models.clear()
                return
            scores.append(outcome.score)
            self.advance(entrant.name)
        entrant.scores.append(scores)
        entrant.updates += self.plan[number]

    def _trained(self, entrant: Entrant, turn: Turn) -> Outcome:
        """Train one copy for one round; what is raised is an outcome too."""
        try:
            model, begun = self._copy(entrant, turn)
            found: Any = None
            # Several rounds only where the copy of an earlier run is lost.
            for number in range(begun, turn.number + 1):
                with entrant.during(model):
                    seeded(1000 * turn.seed + number)
                    found = self.train(model, self.plan[number])
            entrant.models[turn.seed] = model, turn.number + 1
            return Outcome(_score(found))
        except Exception as error:
            if entrant.raises:
                raise
            said = f"training raised {type(error).__name__}: {error}".splitlines()[0]
            return Outcome(error=said)

    def _copy(self, entrant: Entrant, turn: Turn) -> tuple[nn.Module, int]:
        """Return the copy that takes a turn, and how many rounds it has gone through."""
        if turn.seed in entrant.models:
            model, begun = entrant.models[turn.seed]
            if begun == turn.number:
                return model, begun
        if turn.number:
            model = entrant.make(turn.seed)
            if self.finished.load(turn.before, model):
                return model, turn.number
        return entrant.make(turn.seed), 0


def _score(value: Any) -> float:
    """Return a score as a number; NaN, of a training that broke, is the worst there is.

    Raises:
        InputTypeError: it is none.
    """
    try:
        number = float(value.detach() if isinstance(value, Tensor) else value)
    except (TypeError, ValueError) as error:
        raise InputTypeError(
            "train(model, updates) must return a score, one number, higher being better; got "
            f"{type(value).__name__}."
        ) from error
    return -math.inf if math.isnan(number) else number


def _mean(scores: Sequence[float]) -> float:
    return sum(scores) / len(scores)
