"""What a run on a GPU shows of the goals: ours against the best of the others, case by case."""

from __future__ import annotations

from typing import Any

__all__ = ["MAP_GOAL", "goal_of", "goals"]

MAP_GOAL = 20  # times as fast as T calls of autograd
ELSEWHERE = 1.05
STEP, SINGLE = "A training step", "Single steps"
Row = dict[str, Any]


def goal_of(kind: str, H: int, precision: str, what: str) -> float:
    """Return which part of the best other time ours may take at most.

    Args:
        kind: "GRU", "LSTM", "RNN", or a nonlinearity that cuDNN does not have.
        H: the width of h.
        precision: as a case names it.
        what: "all steps", "ragged" or "resets".

    Example:
        >>> goal_of("GRU", 256, "bfloat16", "all steps"), goal_of("GRU", 64, "float32", "all steps")
        (1.0, 1.05)
    """
    gated = kind in ("GRU", "LSTM") and precision == "bfloat16" and 256 <= H <= 1024
    return 1.0 if gated or what != "all steps" or kind in ("sigmoid", "identity") else ELSEWHERE


def goals(rows: list[Row]) -> list[Row]:
    """Return a row for each case that has a time of ours and one of somebody else's.

    Args:
        rows: what was found so far. A contender whose gradients disagree has no time that counts.
    """
    found = []
    timed = [row for row in rows if row.get("ms") and row.get("agrees") != "NO"]
    steps = [row for row in timed if row["table"] == STEP]
    for case, what in dict.fromkeys((row["case"], row["what"]) for row in steps):
        some = [row for row in steps if (row["case"], row["what"]) == (case, what)]
        ours = [row for row in some if row["who"].startswith("throughtime")]
        theirs = [row for row in some if row not in ours]
        if ours and theirs:
            first = some[0]
            goal = goal_of(first["kind"], first["H"], first["precision"], what)
            found.append(_compared(case, what, ours, theirs, goal))
    return found + [row for row in map(_of_map, rows) if row]


def _compared(case: str, what: str, ours: list[Row], theirs: list[Row], goal: float) -> Row:
    mine, best = (min(rows, key=lambda row: row["ms"]) for rows in (ours, theirs))
    by_itself = next((row["ms"] for row in ours if row["who"] == "throughtime"), None)
    ratio = mine["ms"] / best["ms"]
    return {
        "case": case,
        "what": what,
        "best of the others": best["who"],
        "its ms": best["ms"],
        "best of ours": mine["who"],
        "our ms": mine["ms"],
        "ratio": ratio,
        "ratio by itself": None if by_itself is None else by_itself / best["ms"],
        "memory ratio": mine["peak MB"] / best["peak MB"] if best["peak MB"] else None,
        "goal": f"at most {goal:g}",
        "reached": "yes" if ratio <= goal else "no",
    }


def _of_map(row: Row) -> Row | None:
    ours, calls = row.get("recorded, ms"), row.get("T calls of autograd, ms")
    if row["table"] != SINGLE or not ours or not calls:
        return None
    return {
        "case": row["what"],
        "what": "all pairs (t, k)",
        "best of the others": "T calls of autograd",
        "its ms": calls,
        "best of ours": "throughtime",
        "our ms": ours,
        "ratio": ours / calls,
        "goal": f"at most {1 / MAP_GOAL:g}",
        "reached": "yes" if ours * MAP_GOAL <= calls else "no",
    }
