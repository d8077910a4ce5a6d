"""A layer that is read only where it has seen one step, as a reverse one at ``[:, -1]``."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ..evidence import Evidence
from ..finding import Finding
from ..look import Look, Seen

__all__ = ["reads_one_step"]


def reads_one_step(flow: Look, *, share: float = 0.9, least: int = 3) -> Iterator[Finding]:
    """Look for layers into which the losses send gradient at each row's first step alone.

    Args:
        flow: what is looked at.
        share: in which share of the rows that are reached, and that take ``least`` steps or more.
        least: from how many steps on a row is looked at.
    """
    for seen in flow.seen:
        count = seen.steps.sum(0)
        first = (~seen.steps.cummax(0).values).sum(0).clamp(max=seen.layer.T - 1)
        rows = seen.reached & (count >= least)
        if not bool(rows.any()):
            continue
        number = torch.arange(seen.layer.T, device=seen.device)[:, None]
        later = (seen.enters & (number > first)).any(0)
        alone = (rows & ~later).sum() / rows.sum()
        if float(alone) >= share:
            both = seen.layer.reverse or f"{seen.name}_reverse" in flow.flow
            yield _finding(seen, float(alone), share, int(count[rows].max()), both)


def _finding(seen: Seen, alone: float, share: float, length: int, both: bool) -> Finding:
    remedy = "Read the output at the last step along the time axis, or h_n."
    if both:
        remedy = (
            "Read each direction at its own end: output[:, -1, :H] beside output[:, 0, H:], or "
            "h_n[-2] and h_n[-1]; or pool the outputs over time."
        )
    where = "the input's last step" if seen.layer.reverse else "the first step"
    evidence = Evidence(
        "share of the rows that are read after one step alone",
        alone,
        share,
        f"{where} of up to {length}",
        "eq. 9",
        True,
    )
    if seen.layer.reverse:
        return Finding(
            "reverse-reads-one-step",
            "warning",
            seen.name,
            f"The reverse direction {seen.called} is read only at {where}, which is its own first: "
            f"it has seen 1 of {length} steps there.",
            (evidence,),
            remedy,
        )
    return Finding(
        "reads-one-step",
        "warning",
        seen.name,
        f"{seen.called} is read only at {where}, where it has seen 1 of {length} steps.",
        (evidence,),
        remedy,
    )
