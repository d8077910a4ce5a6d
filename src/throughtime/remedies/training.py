"""Copies of a model trained beside one another: successive halving over paired seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ..errors import InputTypeError
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
        models: one copy a seed, while it takes part.
        raises: whether what its training raises is the caller's to see.
    """

    name: str
    make: MakeModel
    during: Callable[[nn.Module], Any] = lambda model: nullcontext()
    scores: list[list[float]] = field(default_factory=list)
    updates: int = 0
    error: str | None = None
    models: list[nn.Module] = field(default_factory=list, repr=False)
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

    Raises:
        InputTypeError: ``train`` returns no number.
    """
    left = list(entrants)
    plan = rounds(len(left), updates)
    for number, count in enumerate(plan):
        for entrant in (base, *left):
            _round(entrant, train, seeds, number, count, advance)
        left = [e for e in left if e.error is None]
        if number < len(plan) - 1:
            ranked = sorted(left, key=lambda e: -_mean(e.scores[-1]))
            for gone in ranked[math.ceil(len(ranked) / 2) :]:
                gone.models.clear()
            left = ranked[: math.ceil(len(ranked) / 2)]


def _round(
    entrant: Entrant,
    train: Train,
    seeds: int,
    number: int,
    updates: int,
    advance: Callable[[str], None],
) -> None:
    scores = []
    for seed in range(seeds):
        try:
            if len(entrant.models) <= seed:
                entrant.models.append(entrant.make(seed))
            seeded(1000 * seed + number)
            with entrant.during(entrant.models[seed]):
                found = train(entrant.models[seed], updates)
        except Exception as error:
            if entrant.raises:
                raise
            entrant.error = f"training raised {type(error).__name__}: {error}".splitlines()[0]
            entrant.models.clear()
            return
        scores.append(_score(found))
        advance(entrant.name)
    entrant.scores.append(scores)
    entrant.updates += updates


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
