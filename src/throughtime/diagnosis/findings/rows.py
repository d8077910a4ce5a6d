"""A few rows of the batch get all the gradient: axes swapped, or a view where they must be."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from ..evidence import Evidence
from ..finding import Finding
from ..look import Look, Seen

__all__ = ["rows_without_gradient"]


def rows_without_gradient(flow: Look, *, share: float = 0.1, least: int = 3) -> Iterator[Finding]:
    """Look for a layer of which only a few batch rows are reached by any loss.

    Where time and batch are swapped, ``output[:, -1]`` picks one row of what is the batch to the
    layer. Of several such layers the one next to the loss is named. It is a note where the rows are
    neither the first nor the last nor the longest: a loss may be 0 in most rows, as a margin's is.

    Args:
        flow: what is looked at.
        share: the largest share of the rows that is few; a single row always is.
        least: how many rows a batch must have.
    """
    for seen in reversed(flow.seen):
        B, count = seen.layer.B, int(seen.reached.sum())
        askew = read_askew(seen, _levels(flow, seen))
        if askew is not None:
            yield _askew(seen, askew)
            return
        few = 0 < count <= max(1, share * B)
        if not few or not least <= B:
            continue
        rows = seen.reached.nonzero().flatten().tolist()
        which = f"row {rows[0]}" if count == 1 else f"{count} rows"
        yield Finding(
            "rows-without-gradient",
            ("error" if count == 1 else "warning") if _chosen(seen) else "note",
            seen.name,
            f"Of the {B} batch rows of {seen.called} only {which} get{'s' * (count == 1)} any "
            f"gradient: it sees {B} rows of {seen.layer.T} steps; are the two axes swapped?",
            (
                Evidence(
                    "share of the rows that a loss reaches",
                    count / B,
                    max(1 / B, share),
                    f"rows {', '.join(map(str, rows[:5]))}",
                    "eq. 9",
                    True,
                ),
            ),
            "Set batch_first to what the input is, (batch, time, feature) or (time, batch, "
            "feature), and read the last step along the time axis; or let the loss read every row.",
        )
        return


def read_askew(seen: Seen, levels: int, *, least: int = 6) -> str | None:
    """Return what was taken for another shape, where the loss reads as a wrong ``view`` would.

    ``view`` and ``reshape`` keep the order in which numbers lie, and swap no axes. Of an output
    (T, B, H) taken for (B, T, H) the last step is every T-th of its steps of rows; of (B, T, H)
    taken for (T, B, H) it is the last B of them; of h_n (levels, B, H) taken for (B, levels, H) it
    is every so many rows. Hardly any choice of rows or steps looks like that; rows that are read
    one after another as they grow longer or shorter, do, and are left out.

    Args:
        seen: the layer.
        levels: how many layers and directions its module has.
        least: how many rows a batch must have, and more than twice the levels.
    """
    T, B, reached = seen.layer.T, seen.layer.B, seen.reached
    count = int(reached.sum())
    if min(T, B) < 2 or max(least, 2 * levels + 1) > B or count < 2:
        return None
    enters = seen.enters.flip(0) if seen.layer.reverse else seen.enters
    in_turn = count == B and T % B in (1, B - 1)
    if not in_turn and _spaced(enters, T, B):
        return "an output (time, batch, feature) taken for (batch, time, feature)"
    if count < B and _spaced(enters.T, 1, B):
        return "an output (batch, time, feature) taken for (time, batch, feature)"
    rows = reached.nonzero().flatten()
    own = (levels - 1) * (1 - B) % levels  # of the top level, the first row that [:, -1] takes
    at_end = levels > 1 and count > 2 and not bool(seen.enters[:-1].any())
    if at_end and int(rows[0]) == own and bool((rows.diff() == levels).all()):
        return "h_n (layers, batch, feature) taken for (batch, layers, feature)"
    return None


def _spaced(enters: Tensor, apart: int, count: int) -> bool:
    """Check whether so many places are entered in memory's order, each so far from the last."""
    places = enters.flatten().nonzero().flatten()
    return len(places) == count and bool((places.diff() == apart).all())


def _levels(flow: Look, seen: Seen) -> int:
    """Return how many layers and directions the module has that this one belongs to."""
    module = seen.name.rpartition(".")[0]
    return sum(other.name.rpartition(".")[0] == module for other in flow.seen)


def _askew(seen: Seen, what: str) -> Finding:
    B, count = seen.layer.B, int(seen.reached.sum())
    whom = (
        f"only {count} get any gradient" if count < B else "each gets its gradient at another step"
    )
    rows = ", ".join(map(str, seen.reached.nonzero().flatten().tolist()[:5]))
    return Finding(
        "rows-without-gradient",
        "warning",
        seen.name,
        f"Of the {B} batch rows of {seen.called} {whom}, and for the wrong targets: it looks like "
        f"{what} by view or reshape.",
        (
            Evidence(
                "share of the rows that a loss reaches",
                count / B,
                1.0,
                f"rows {rows}",
                "eq. 9",
                True,
            ),
        ),
        "Swap axes with transpose or permute, never with view or reshape, which leave the numbers "
        "in their order; of h_n take the level first: h_n[-1].",
    )


def _chosen(seen: Seen) -> bool:
    """Check whether the rows that are reached look picked by their place or their length."""
    length, reached = seen.steps.sum(0), seen.reached
    longest = bool((length[reached] == length.max()).all()) and bool((length != length[0]).any())
    return bool(reached[0] | reached[-1]) or longest
