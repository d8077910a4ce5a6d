"""A few rows of the batch get all the gradient: axes swapped, or ``batch_first`` forgotten."""

from __future__ import annotations

from collections.abc import Iterator

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


def _chosen(seen: Seen) -> bool:
    """Check whether the rows that are reached look picked by their place or their length."""
    length, reached = seen.steps.sum(0), seen.reached
    longest = bool((length[reached] == length.max()).all()) and bool((length != length[0]).any())
    return bool(reached[0] | reached[-1]) or longest
