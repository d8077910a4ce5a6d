"""Rows end in steps of constant input, and a loss reads the state after them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..evidence import Evidence
from ..finding import Finding
from ..look import Look, Seen

__all__ = ["reads_padding"]


class Ends(NamedTuple):
    """How rows end.

    Attributes:
        last: (B,), the last step whose input differs from the row's final one.
        run: (B,), how many steps of that final input follow.
        padded: (B,) bool, whether that is taken for padding.
    """

    last: Tensor
    run: Tensor
    padded: Tensor


def reads_padding(
    flow: Look, *, share: float = 0.25, inside: float = 0.3, longer: float = 3.0
) -> Iterator[Finding]:
    """Look for padded rows whose padding a loss reads.

    A row is taken for padded where it ends in two or more steps of one and the same input, and
    that input is rare before: sparse or silent input is constant at times everywhere, not at the
    end alone. The rows must differ in how much of it they have: a batch in which all rows end at
    one step has a pause by design.

    Args:
        flow: what is looked at.
        share: in which share of the rows at least.
        inside: the largest share of the steps before that may have the same input.
        longer: how many times longer the final run must be than any run of it before.
    """
    for seen in flow.seen:
        if seen.fed_by or seen.layer.reverse or seen.layer.T < 3 or not seen.layer.tape.x.shape[-1]:
            continue
        ends = _ends(seen, share, inside, longer)
        if ends is None:
            continue
        number = torch.arange(1, seen.layer.T + 1, device=seen.device)[:, None]
        after = number > ends.last
        read = ends.padded & (seen.enters & after).any(0)
        rows = int(read.sum())
        if rows < share * int(seen.reached.sum()) or not rows:
            continue
        entering = seen.layer.entering_norms.nan_to_num(0)[:, read]
        part = float((entering * after[:, read]).sum() / entering.sum().clamp(min=1e-300))
        yield _finding(seen, ends, read, part, share)


def _ends(seen: Seen, share: float, inside: float, longer: float) -> Ends | None:
    """Return how rows end, or None where they do not end in padding."""
    x, steps = seen.layer.tape.x, seen.steps
    length = steps.sum(0)
    each = torch.arange(seen.layer.B, device=seen.device)
    final = x[(length - 1).clamp(min=0), each]
    before = x[(length - 2).clamp(min=0), each]
    repeats = (final == before).all(-1) & (length > 2)
    if float(repeats.float().mean()) < share:
        return None
    same = (x == final).all(-1) & steps
    number = torch.arange(1, seen.layer.T + 1, device=seen.device)[:, None]
    differs = torch.where(steps & ~same, number, 0)
    last = differs.amax(0)
    run = length - last
    # How long a run of the final input is at each step before the last different one.
    runs = number - differs.cummax(0).values
    longest = torch.where(number <= last, runs, 0).amax(0)
    padded = repeats & (last > 0) & (run > longer * longest)
    if float(padded.float().mean()) < share:
        return None
    early = (number <= last) & padded
    often = float((same & early).sum() / early.sum().clamp(min=1))
    if often > inside or (seen.layer.B > 1 and len(last[seen.reached].unique()) == 1):
        return None
    return Ends(last, run, padded)


def _finding(seen: Seen, ends: Ends, read: Tensor, part: float, share: float) -> Finding:
    rows, reached = int(read.sum()), int(seen.reached.sum())
    steps = int(ends.run[read].median())
    evidence = (
        Evidence(
            "share of the rows that are read after their end",
            rows / max(reached, 1),
            share,
            f"{rows} of {reached} rows",
            "eq. 1",
            True,
        ),
        Evidence("steps of constant input at the end", float(steps), 2.0, "a typical row", "eq. 1"),
        Evidence("share of what enters that enters there", part, None, "these rows", "eq. 9"),
    )
    how = "The loss reads" if part > 0.99 else f"{100 * part:.0f} % of what the loss reads of"
    what = (
        f"{how} the state of {seen.name} after the end of {rows} of {reached} rows: they end in "
        f"steps of constant input, {steps} in a typical row, which look like padding."
        if part > 0.99
        else f"Part of the loss reads {seen.name} after the end of {rows} of {reached} rows "
        f"({100 * part:.0f} % of the gradient there): they end in steps of constant input, {steps} "
        "in a typical row, which look like padding."
    )
    return Finding(
        "reads-padding",
        "warning" if seen.layer.B > 1 else "note",
        seen.name,
        what,
        evidence,
        "Give the rows their lengths: pack_padded_sequence, or lengths= of this package's layers, "
        "and read h_n; where every step is read, leave the padded ones out of the loss by a mask.",
        "lengths",
    )
