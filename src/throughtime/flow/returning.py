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


def settle_states(recording: Recording, ancestry: Ancestry) -> None:
    """Tell each step module's state from what else it returns.

    A result is state where it comes back as it is, or without its graph, into a later call of the
    module; where none does, where anything that comes back hangs on it.

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
                "it returned came back into a later call, so it has no state to follow. Leave it "
                "out of steps=, or mark its state in the loop: h = tt.mark('h', h)."
            )
        for _, step in steps:
            _keep(step, came_back)


def _came_back(ancestry: Ancestry, steps: Sequence[tuple[int, Step]]) -> dict[int, int]:
    """Return which results came back, each with the place among the arguments where it did."""
    own = {number: step for number, step in steps}
    as_it_is: dict[int, int] = {}
    computed: dict[int, int] = {}
    for (last, before), (_, step) in pairwise(steps):
        for place, tensor in enumerate(step.given):
            at = ancestry.direct(tensor)
            if at is not None and at[0] in own:
                as_it_is.setdefault(at[1], place)
                continue
            nr = next((n for n, v in enumerate(before.values) if _same(v, tensor)), None)
            if nr is not None:
                as_it_is.setdefault(nr, place)
            for number, nr in ancestry.behind([tensor], step.key):
                if number == last and before.values[nr].shape == tensor.shape:
                    computed.setdefault(nr, place)
    return as_it_is or computed


def _same(value: Tensor, given: Tensor) -> bool:
    return (
        value.shape == given.shape
        and torch.equal(value, given.detach())
        and bool((value != 0).any())
    )


def _keep(step: Step, came_back: dict[int, int]) -> None:
    """Leave only the state among what a step put out, and among what it was given."""
    places = sorted(came_back)
    if came_back:
        _only(step, places)
    given = [step.given[came_back[n]] for n in places if came_back[n] < len(step.given)]
    # The first call may have been given none.
    known = bool(given) and [g.shape for g in given] == [part.shape for part in step.values]
    step.given = tuple(given) if known else ()
    if step.begin is not None:
        _only(step.begin, [came_back[n] for n in places] if known else [])


def _only(step: Step, places: Sequence[int]) -> None:
    """Leave some of a step's results as its state; the others let gradients through."""
    step.gate.state = frozenset(places)
    step.raw = tuple(step.raw[n] for n in places)
    step.out = tuple(step.out[n] for n in places)
    step.values = tuple(step.values[n] for n in places)
    step.edges = tuple(step.edges[n] for n in places)
