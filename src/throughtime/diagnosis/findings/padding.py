"""Rows end in steps of constant input, and a loss reads the state after them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ...flow.nonfinite import all_finite
from ..evidence import Evidence
from ..finding import Finding
from ..look import Look, Seen
from .dropped import undropped

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
    flow: Look,
    *,
    share: float = 0.25,
    inside: float = 0.3,
    longer: float = 3.0,
    chance: float = 0.01,
) -> Iterator[Finding]:
    """Look for padded rows whose padding a loss reads.

    A row is taken for padded where it ends in a run of one and the same input, longer than any run
    of equal inputs before, and that input is rare before: sparse, silent or held input is constant
    at times everywhere, not at the end alone. The rows must differ in how much of it they have: a
    batch in which all rows end at one step has a pause by design. A reverse direction ends where
    the input begins, so it is padding on the left that it must not read.

    Args:
        flow: what is looked at.
        share: in which share of the rows at least.
        inside: the largest share of the steps before that may have the same input.
        longer: how many times longer the final run must be than any run of equal inputs before.
        chance: how likely such a run may be, by how often inputs repeat before (few symbols do).
    """
    for seen in flow.seen:
        if seen.fed_by or seen.layer.T < 3 or not seen.layer.tape.x.shape[-1]:
            continue
        ends = _ends(seen, share, inside, longer, chance)
        if ends is None:
            continue
        number = torch.arange(1, seen.layer.T + 1, device=seen.device)[:, None]
        after = number > ends.last
        read = ends.padded & (seen.enters & after).any(0)
        rows = int(read.sum())
        if rows < share * int(seen.reached.sum()) or not rows:
            continue
        entering = seen.layer.entering_norms[:, read].double()
        if not all_finite(entering):  # of a bad loss only where it reads is known
            entering = seen.enters[:, read].double()
        part = float((entering * after[:, read]).sum() / entering.sum())
        yield _finding(seen, ends, read, part, share)


def _ends(seen: Seen, share: float, inside: float, longer: float, chance: float) -> Ends | None:
    """Return how rows end, or None where they do not end in padding."""
    x, steps = seen.layer.tape.x, seen.steps
    number = torch.arange(1, seen.layer.T + 1, device=seen.device)[:, None]
    length = (number * steps).amax(0)  # of a reverse direction, the padding comes first
    each = torch.arange(seen.layer.B, device=seen.device)
    # What lies between the data and the layer may round equal inputs to almost equal ones.
    near = 1e-6 * x.abs().amax()
    x = undropped(x, length, near)
    final = x[(length - 1).clamp(min=0), each]
    before = x[(length - 2).clamp(min=0), each]
    repeats = ((final - before).abs() <= near).all(-1) & (length > 2)
    if float(repeats.float().mean()) < share:
        return None
    same = ((x - final).abs() <= near).all(-1) & steps
    last = torch.where(steps & ~same, number, 0).amax(0)
    run = length - last
    # How many steps the input has been what it is, at each step before the final run.
    new = ((x[1:] - x[:-1]).abs() > near).any(-1)
    new = torch.cat((torch.ones_like(new[:1]), new))
    held = number - torch.where(new, number, 0).cummax(0).values + 1
    longest = torch.where((number <= last) & steps, held, 0).amax(0)
    begun = (number > 1) & (number <= last) & steps
    # One more than was seen: none in a few steps does not mean never.
    repeat = float(((~new & begun).sum() + 1) / (begun.sum() + 1))
    likely = repeat ** (run - 1).clamp(min=0).double()
    # Padding begins with a jump; a signal that settles comes as near as rounding lets it.
    jumps = ((x[(last - 1).clamp(min=0), each] - final).abs() > 10 * near).any(-1)
    padded = repeats & (last > 0) & jumps & (run > longer * longest) & (likely < chance)
    if int(padded.sum()) < max(share * seen.layer.B, 2 if seen.layer.B > 3 else 1):
        return None
    early = (number <= last) & padded & steps
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
    whole = part > 0.99
    end, run = ("beginning", "begin with") if seen.layer.reverse else ("end", "end in")
    who = "The loss reads" if whole else f"{100 * part:.0f} % of what the loss reads of"
    where = f"the state of {seen.called} beyond the {end} of" if whole else f"{seen.called} in"
    told = "" if whole else f" lies beyond their {end}"
    what = (
        f"{who} {where} {rows} of {reached} rows{told}: they {run} steps of constant input, "
        f"{steps} in a typical row, which look like padding."
    )
    remedy = (
        "Give the rows their lengths: pack_padded_sequence, or lengths= of this package's layers, "
        "and read h_n; where every step is read, leave the padded ones out of the loss by a mask."
    )
    if seen.layer.reverse:
        remedy = f"Pad the rows at their end, not before their beginning. {remedy}"
    return Finding(
        "reads-padding",
        "warning" if seen.layer.B > 1 else "note",
        seen.name,
        what,
        evidence,
        remedy,
        "lengths",
    )
