"""The state was detached inside what is one sequence."""

from __future__ import annotations

from collections.abc import Iterator

from ..evidence import Evidence
from ..finding import Finding
from ..look import Look, Seen

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
            yield from _in_part(flow, seen, shown)
            yield from _behind(flow, seen)
            continue
        steps = ", ".join(map(str, cuts[:shown])) + (" …" if len(cuts) > shown else "")
        longest = max(b - a for a, b in zip((1, *cuts), (*cuts, seen.layer.T + 1), strict=True))
        yield Finding(
            "state-cut",
            "warning",
            seen.name,
            f"The state of {seen.called} is detached before step{'s' * (len(cuts) > 1)} {steps} of "
            f"one sequence of {seen.layer.T}: no loss reaches back more than {longest} "
            f"step{'s' * (longest != 1)}.",
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


def _in_part(flow: Look, seen: Seen, shown: int) -> Iterator[Finding]:
    """Look for steps before which a part of the state alone was detached: h, and not c."""
    parts = None if flow.facts is None else flow.facts.parts_cut.get(seen.name)
    if not parts:
        return
    which = sorted({n for cut in parts.values() for n in cut})
    named = " and ".join("hc"[n] if n < 2 else f"part {n}" for n in which)
    named = f"The part {named} of the state"
    steps = ", ".join(map(str, list(parts)[:shown])) + (" …" if len(parts) > shown else "")
    where = f"before {steps}"
    yield Finding(
        "state-cut",
        "warning",
        seen.name,
        f"{named} of {seen.called} is detached before step{'s' * (len(parts) > 1)} {steps}, and "
        "the rest of the state is not: no gradient goes back through it there.",
        (Evidence("times that it was cut", float(len(parts)), 0.0, where, "eq. 9", True),),
        "Pass all parts of the state on as they are; where the sequence is to be cut, detach all "
        "of them together.",
    )


def _behind(flow: Look, seen: Seen) -> Iterator[Finding]:
    """Look for a run that goes on where steps without gradients ended."""
    if flow.facts is None or seen.name not in flow.facts.from_blind:
        return
    yield Finding(
        "state-cut",
        "warning",
        seen.name,
        f"The state that {seen.called} begins with was left by steps of its own that ran without "
        "gradients, as under torch.no_grad(): no loss reaches back into them.",
        (Evidence("states from before", 1.0, 0.0, "step 0", "eq. 9", True),),
        "Run those steps with gradients; if they are only to warm the state up, leave it as it is.",
    )
