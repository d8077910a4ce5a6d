"""The demo's sentences on the recurrence that overflows, made from its numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from ..report.number_text import number, percent
from .overflow import Overflow

__all__ = ["clipping_text", "enumerated", "first_bad_step"]


def enumerated(parts: Sequence[str]) -> str:
    """Return a list in words: "a, b and c"."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def first_bad_step(rows: Sequence[Overflow]) -> str:
    """Describe where the gradient overflowed, and that inf came before NaN."""
    bad = [row for row in rows if row.first is not None]
    if not bad:
        return "In this run no gain made a number overflow."
    row = bad[0]
    first = row.first
    assert first is not None
    T = len(row.by_step) - 1
    way = "in the backward pass" if first.direction == "backward" else "in the forward pass"
    text = (
        f"With β_W = {row.gain:g} the loss is {number(row.loss, 3)} and looks like any other. The "
        f"first number that is not finite stands {way}, at step {first.step} of {T}, batch row "
        f"{first.row}, unit {first.unit}: {'NaN' if first.kind == 'nan' else first.kind}. "
    )
    if first.direction == "backward":
        text += "Every state in the forward pass is finite. "
    if first.kind == "inf" and row.first_nan is not None and first.direction == "backward":
        steps = first.step - row.first_nan
        when = (
            f"{steps} step{'s' if steps > 1 else ''} further back" if steps else "at that step too"
        )
        text += f"The first NaN stands {when}, at step {row.first_nan}: overflow yields inf first."
    return text.strip()


def clipping_text(rows: Sequence[Overflow]) -> str:
    """Describe what clipping did at each gain where it made a difference, or could not."""
    pairs = [(a, b) for a in rows if a.clip is None for b in rows if b.gain == a.gain and b.clip]
    said = (_thrown(pairs), _lost(rows), _saved(pairs), _past(pairs))
    return " ".join(filter(None, said)) or "Clipping changed nothing at these gains."


# Of each gain, the run without clipping and the one with it.
_Pairs = Sequence[tuple[Overflow, Overflow]]


def _thrown(pairs: _Pairs) -> str:
    """Describe the runs whose weights an unclipped step threw far out."""
    thrown = [(a, b) for a, b in pairs if not a.stopped and a.largest > 10 * b.largest]
    if not thrown:
        return ""
    bare, clipped = thrown[-1]
    return (
        f"At β_W = {_gains(a for a, _ in thrown)} an unclipped step throws the "
        f"weights far out (the largest to {number(bare.largest, 2)} at {bare.gain:g}); then "
        f"{percent(bare.saturated)} of the states sit at ±1, where no gradient passes. Clipped "
        f"they stay at {number(clipped.largest, 2)}."
    )


def _lost(rows: Sequence[Overflow]) -> str:
    """Describe a run whose gradient is finite, but not its norm in float32."""
    lost = [row for row in rows if math.isinf(row.float32_norm) and math.isfinite(row.norm)]
    if not lost:
        return ""
    return (
        f"At β_W = {lost[0].gain:g} every entry of the gradient is finite, but its norm, "
        f"{number(lost[0].norm, 2)}, overflows where float32 squares it: clipping by such a "
        "norm multiplies by 0, and the network stands still. Here it is taken in float64."
    )


def _saved(pairs: _Pairs) -> str:
    """Describe the runs that clipping saved."""
    saved = [a for a, b in pairs if a.stopped and not b.stopped]
    if not saved:
        return ""
    return f"At β_W = {_gains(saved)} the run without clipping ends, the one with it goes on."


def _past(pairs: _Pairs) -> str:
    """Describe the runs that clipping could not save."""
    past = [b for a, b in pairs if a.stopped and b.stopped]
    if not past:
        return ""
    return (
        f"At β_W = {_gains(past)} clipping does not help: the "
        "gradient is not finite any more when it could be clipped, and inf times 0 is NaN. "
        "The gain has to come down."
    )


def _gains(rows: Iterable[Overflow]) -> str:
    return enumerated([f"{row.gain:g}" for row in rows])
