"""The state was detached inside what is one sequence."""

from __future__ import annotations

from collections.abc import Iterator

from ..evidence import Evidence
from ..finding import Finding
from ..look import Look

__all__ = ["state_cut"]


def state_cut(flow: Look, *, shown: int = 6) -> Iterator[Finding]:
    """Look for layers whose state was cut off from the steps before.

    Args:
        flow: what is looked at.
        shown: how many steps are spelled out.
    """
    for seen in flow.seen:
        cuts = seen.layer.cuts
        if not cuts:
            continue
        steps = ", ".join(map(str, cuts[:shown])) + (" …" if len(cuts) > shown else "")
        longest = max(b - a for a, b in zip((1, *cuts), (*cuts, seen.layer.T + 1), strict=True))
        yield Finding(
            "state-cut",
            "warning",
            seen.name,
            f"The state of {seen.called} is detached before step{'s' * (len(cuts) > 1)} {steps} of "
            f"one sequence of {seen.layer.T}: no loss reaches back more than {longest} steps.",
            (
                Evidence(
                    "times that the state was cut",
                    float(len(cuts)),
                    0.0,
                    f"before {steps}",
                    "eq. 9",
                    True,
                ),
            ),
            "Pass the state on as it is and call backward() once for the whole sequence; where "
            "that is too long, detach only between updates, or use through=tt.Truncated(window).",
        )
