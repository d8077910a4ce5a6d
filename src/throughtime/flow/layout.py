"""The runs of a trace as segments, in an order in which each comes after what it hangs on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from ..cells.probes import alike
from ..kernels.verbs import forward
from ..node.recording import Call, Recording, Step
from ..tape import Tape, complete
from .ancestry import Ancestry
from .axis import AxisSegment
from .flattening import flat
from .joining import direct_boundaries, join, laid_out, same_weights
from .returning import settle_states
from .runs import Run, find_runs, given_numbers
from .segments import CallSegment, Segment
from .step_segments import GraphSegment, StepSegment

__all__ = ["Layout", "lay_out"]


@dataclass
class Layout:
    """A trace's runs, each as one segment or as several.

    Attributes:
        runs: in the order in which they began.
        wholes: each run as one segment, which knows where gradients arrive, whether or not it can
            be swept in one piece.
        parts: each run's segments' numbers in ``segments``, in order.
        segments: in an order in which each comes after those that it hangs on.
        behind: for each segment, the numbers of those that it hangs on directly.
        begins: by the numbers of segments that are the state before a run's first step, the run's.
    """

    runs: list[Run]
    wholes: list[Segment]
    parts: list[list[int]]
    segments: list[Segment]
    behind: list[list[int]]
    begins: dict[int, int]

    @property
    def whole(self) -> bool:
        """Whether every run is swept in one piece by a cell that is known."""
        return all(
            len(part) == 1
            and (segment := self.segments[part[0]]).cell is not None
            and not (isinstance(segment, CallSegment) and segment.linked)
            for part in self.parts
        )


def lay_out(recording: Recording) -> Layout:
    """Put what was recorded in order (`Layout`).

    Args:
        recording: the trace's.

    Raises:
        GraphError: a step module without a state; a state that is marked in pieces.
    """
    ancestry = Ancestry(recording.calls)
    if any(isinstance(call, Step) for call in recording.calls):
        settle_states(recording, ancestry)
        ancestry = Ancestry(recording.calls)
    runs = find_runs(recording, ancestry)
    pieces = _pieces(recording.calls, runs, ancestry)
    begins = _begins(recording.calls, runs)
    before = [_before(call, ancestry) for call in recording.calls]
    for number, r in begins.items():
        begin = recording.calls[number]
        assert isinstance(begin, Step)
        pieces[number] = GraphSegment(begin, runs[r].name)
    direct = direct_boundaries(recording, runs, pieces, ancestry)
    for run in runs:
        for last, number, ok in zip(
            run.numbers, run.numbers[1:], direct[run.name][1:], strict=False
        ):
            if ok:  # measured: the graph may seem to hold more, as where layers' states are stacked
                before[number] = (before[number][0], frozenset({last}))
    looped = _looped(runs, before)
    grouped: list[list[list[int]]] = []
    segments: list[Segment] = []
    for run, loops in zip(runs, looped, strict=True):
        groups = _groups(run, [ok and not loops for ok in direct[run.name]])
        made = [join([pieces[n] for n in group]) for group in groups]
        if any(one is None for one in made):
            groups = [[n] for n in run.numbers]
            made = [pieces[n] for n in run.numbers]
        grouped.append(groups)
        segments += [one for one in made if one is not None]
    return _in_order(runs, pieces, grouped, segments, before, begins)


def _begins(calls: Sequence[Call | Step], runs: Sequence[Run]) -> dict[int, int]:
    """Return by the number of each state that a step module began from the number of its run."""
    at = {id(call): n for n, call in enumerate(calls)}
    found = {}
    for r, run in enumerate(runs):
        first = calls[run.numbers[0]]
        if isinstance(first, Step) and first.begin is not None and first.begin.edges:
            first.begin.rows = first.rows
            found[at[id(first.begin)]] = r
    return found


def _groups(run: Run, direct: Sequence[bool]) -> list[list[int]]:
    groups: list[list[int]] = []
    for number, continues in zip(run.numbers, direct, strict=True):
        if continues:
            groups[-1].append(number)
        else:
            groups.append([number])
    return groups


def _before(call: Call | Step, ancestry: Ancestry) -> tuple[frozenset[int], frozenset[int]]:
    """Return the calls that a call's input hangs on, and those that its state does."""
    if isinstance(call, Call):
        inputs, state = [call.x, *call.given.values()], [call.s_0]
    elif call.cell is not None and call.x is not None:
        inputs, state = [call.x], list(call.given)
    else:
        inputs, state = [], list(call.raw)
    return (
        frozenset(n for n, _ in ancestry.behind(inputs)),
        frozenset(n for n, _ in ancestry.behind(state)),
    )


def _looped(runs: Sequence[Run], before: Sequence[tuple[frozenset[int], frozenset[int]]]):
    """Check for each run whether it feeds back into itself other than by its state."""
    of = {number: r for r, run in enumerate(runs) for number in run.numbers}
    feeds: list[set[int]] = []
    for run in runs:
        fed = {of[n] for number in run.numbers for n in before[number][0] if n in of}
        for last, number in zip((None, *run.numbers), run.numbers, strict=False):
            fed |= {of[n] for n in before[number][1] if n != last and n in of}
        feeds.append(fed)
    return [r in _reached(feeds, feeds[r]) for r in range(len(runs))]


def _reached(feeds: Sequence[Iterable[int]], start: Iterable[int]) -> set[int]:
    seen: set[int] = set()
    stack = list(start)
    while stack:
        r = stack.pop()
        if r not in seen:
            seen.add(r)
            stack.extend(feeds[r])
    return seen


def _in_order(
    runs: list[Run],
    pieces: dict[int, Segment],
    grouped: list[list[list[int]]],
    segments: list[Segment],
    before: Sequence[tuple[frozenset[int], frozenset[int]]],
    begins: dict[int, int],
) -> Layout:
    """Sort the segments so that each comes after what it hangs on, else as they began."""
    groups = [group for of_run in grouped for group in of_run] + [[number] for number in begins]
    of = {number: n for n, group in enumerate(groups) for number in group}
    behind = [
        {of[b] for number in group for b in before[number][0] | before[number][1] if b in of} - {n}
        for n, group in enumerate(groups)
    ]
    order: list[int] = []
    placed: set[int] = set()
    waiting = sorted(range(len(groups)), key=lambda n: groups[n][0])
    while waiting:
        ready = next(n for n in waiting if behind[n] <= placed)
        order.append(ready)
        placed.add(ready)
        waiting.remove(ready)
    at = {n: place for place, n in enumerate(order)}
    parts: list[list[int]] = []
    first = 0
    for of_run in grouped:
        parts.append([at[first + n] for n in range(len(of_run))])
        first += len(of_run)
    segments = [*segments, *(pieces[number] for number in begins)]
    ordered = [segments[n] for n in order]
    wholes = [
        ordered[part[0]] if len(part) == 1 else laid_out([pieces[n] for n in run.numbers])
        for run, part in zip(runs, parts, strict=True)
    ]
    for run, part in zip(runs, parts, strict=True):
        for number in part:
            ordered[number].name = run.name
    hangs = [sorted(at[b] for b in behind[n]) for n in order]
    return Layout(runs, wholes, parts, ordered, hangs, {at[of[n]]: r for n, r in begins.items()})


def _pieces(
    calls: Sequence[Call | Step], runs: Sequence[Run], ancestry: Ancestry
) -> dict[int, Segment]:
    """Return each call as a segment by itself."""
    pieces: dict[int, Segment] = {}
    for run in runs:
        steps = [(n, call) for n in run.numbers if isinstance(call := calls[n], Step)]
        tapes = _step_tapes([step for _, step in steps])
        for number in run.numbers:
            call = calls[number]
            if isinstance(call, Call):
                pieces[number] = whole = CallSegment(call, run.name)
                whole.linked = {n: t for n, t in call.given.items() if ancestry.behind([t])}
        for (number, step), tape in zip(steps, tapes, strict=True):
            if step.key.kind == "axis":
                pieces[number] = AxisSegment(step, run.name)
            elif tape is not None:
                pieces[number] = StepSegment(step, run.name, tape)
            else:
                pieces[number] = GraphSegment(step, run.name)
    return pieces


def _step_tapes(steps: Sequence[Step]) -> list[Tape | None]:
    """Return the tape of each step of a known cell, of all of them taken at once as rows."""
    if not steps or any(step.cell is None or step.x is None for step in steps):
        return [None] * len(steps)
    cell = steps[0].cell
    assert cell is not None
    if not all(same_weights(cell, step.cell) for step in steps):
        return [_step_tapes([step])[0] for step in steps]
    x = torch.cat([flat([step.x.detach()], step.rows) for step in steps if step.x is not None])
    values = [flat(step.values, step.rows) for step in steps]
    # A cell that was given no state began from zeros.
    given = [given_numbers(step) for step in steps]
    began = [torch.zeros_like(v) if s is None else s for s, v in zip(given, values, strict=True)]
    B = values[0].shape[0]
    with torch.no_grad():
        tape = complete(cell, forward(cell, x[None], torch.cat(began)))
    if not alike(
        tape.s[1], torch.cat(values)
    ):  # another precision (autocast), or a forward of its own
        return [None] * len(steps)
    # Each step by itself: what it kept without copying, its two states beside each other.
    x, saved = tape.x.split(B, 1), [kept.split(B, 1) for kept in tape.saved]
    s = tape.s.unflatten(1, (len(steps), B)).transpose(0, 1).contiguous()
    return [Tape(x[n], s[n], tuple(kept[n] for kept in saved)) for n in range(len(steps))]
