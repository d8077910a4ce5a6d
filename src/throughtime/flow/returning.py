"""Which of a step module's results are its state: what comes back into its next call."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ..errors import GraphError
from ..node.recording import Recording, Step
from .ancestry import Ancestry

__all__ = ["settle_states"]

# Where something came back: the argument's number, or where the module keeps it.
Place = int | str


def settle_states(recording: Recording, ancestry: Ancestry) -> None:
    """Tell each step module's state from what else it returns.

    What a call is given is its arguments, and what the module kept in attributes and buffers; what
    it puts out is what it returns, and what it keeps. A result is state where it comes back as it
    is, or without its graph, into a later call of the module; where none does, where anything that
    comes back hangs on it. What is kept counts only where a later call reads it.

    Args:
        recording: the trace's.
        ancestry: of its calls.

    Raises:
        GraphError: nothing that a module returned came back.
    """
    by_key: dict[str, list[tuple[int, Step]]] = {}
    for number, call in enumerate(recording.calls):
        if isinstance(call, Step) and call.key.kind == "step" and call.cell is None:
            by_key.setdefault(call.key.name, []).append((number, call))
    for name, steps in by_key.items():
        came_back = _came_back(ancestry, steps) if len(steps) > 1 else {}
        if not came_back and len(steps) > 1:
            raise GraphError(
                f"{name or 'the model'} ran {len(steps)} times inside the trace, and nothing that "
                "it returned or kept came back into a later call, so it has no state to follow. "
                "Leave it out of steps=, or mark its state in the loop: h = tt.mark('h', h)."
            )
        for _, step in steps:
            _keep(step, came_back)
        if len(steps) == 1:
            recording.skipped[name] = (
                "ran once inside the trace, so what it did over time was not seen: a step module "
                "takes one step a call"
            )


def _came_back(ancestry: Ancestry, steps: Sequence[tuple[int, Step]]) -> dict[int, Place]:
    """Return which results came back, each with where it did."""
    own = {number: step for number, step in steps}
    as_it_is: dict[int, Place] = {}
    computed: dict[int, Place] = {}
    for (last, before), (_, step) in pairwise(steps):
        read = ancestry.behind(step.raw, step.key) if step.found else frozenset()
        for place, tensor in _given(step):
            kept = isinstance(place, str)
            at = ancestry.direct(tensor)
            if at is not None and at[0] in own:
                if not kept or at in read:
                    as_it_is.setdefault(at[1], place)
                continue
            nr = next((n for n, v in enumerate(before.values) if _same(v, tensor)), None)
            if nr is not None and (not kept or before.kept.get(place) == nr):
                as_it_is.setdefault(nr, place)
            for number, nr in ancestry.behind([tensor], step.key):
                fits = number == last and before.values[nr].shape == tensor.shape
                if fits and (not kept or (number, nr) in read):
                    computed.setdefault(nr, place)
    return as_it_is or computed


def _given(step: Step) -> list[tuple[Place, Tensor]]:
    """Return what a step was given, by its place among the arguments or where it was kept."""
    return [*enumerate(step.given), *step.found.items()]


def _same(value: Tensor, given: Tensor) -> bool:
    return (
        value.shape == given.shape
        and torch.equal(value, given.detach())
        and bool((value != 0).any())
    )


def _keep(step: Step, came_back: dict[int, Place]) -> None:
    """Leave only the state among what a step put out, and among what it was given."""
    results = sorted(came_back)
    if came_back:
        _only(step, results)
    _lay_rows(step)
    places, by_place = [came_back[n] for n in results], dict(_given(step))
    given = [by_place[place] for place in places if place in by_place]
    # The first call may have been given none.
    known = bool(given) and [g.shape for g in given] == [part.shape for part in step.values]
    step.given, step.found = tuple(given) if known else (), {}
    if step.begin is not None:
        # Of what was kept there are no aliases to tell the state before the first step by.
        arguments = [place for place in places if isinstance(place, int)]
        _only(step.begin, arguments if known and len(arguments) == len(places) else [])


def _only(step: Step, places: Sequence[int]) -> None:
    """Leave some of a step's results as its state; the others let gradients through."""
    step.gate.state = frozenset(places)
    step.raw = tuple(step.raw[n] for n in places)
    step.out = tuple(step.out[n] for n in places)
    step.values = tuple(step.values[n] for n in places)
    step.edges = tuple(step.edges[n] for n in places)


def _lay_rows(step: Step) -> None:
    """Take the first axis of the state's parts for the batch, where they have one in common."""
    shapes = [part.shape for part in step.values]
    alike = all(len(shape) > 1 for shape in shapes) and len({s[0] for s in shapes}) == 1
    step.rows = 0 if alike else None
