"""The speeds that are asked for, beside those that were found."""

from __future__ import annotations

import math
from typing import NamedTuple

from .bench_rows import KINDS, Findings, Row, geometric_mean

__all__ = ["TARGETS", "Outcome", "Target", "outcomes"]


class Target(NamedTuple):
    """What is asked of one kind of line.

    Attributes:
        kind: the kind of line.
        layer: the layer; empty: all of them together.
        mean: the least geometric mean.
        least: what no line may be below.
        most: what none may be above, for what is better when small.
        of: the property that counts.
        large: only lines with H ≥ 256 and B ≥ 16 count.
    """

    kind: str
    layer: str = ""
    mean: float | None = None
    least: float | None = None
    most: float | None = None
    of: str = "ratio"
    large: bool = False


TARGETS = (
    Target("train", "RNN", mean=3.0, least=1.2),
    Target("train", "GRU", mean=3.0, least=1.15),
    Target("train", "LSTM", mean=1.3, least=0.97),
    Target("jax", mean=2.0, least=1.0),
    Target("train", mean=0.75, least=0.65, of="share", large=True),
    Target("train64", "RNN", mean=2.0),
    Target("train64", "GRU", mean=2.0),
    Target("train64", "LSTM", mean=2.0),
    Target("packed", mean=5.0),
    Target("repadded", mean=5.0),
    Target("padded", mean=1.7),
    Target("infer", mean=1.3, least=0.95),
    Target("map", "RNN", mean=10.0),
    Target("map", "GRU", mean=8.0),
    Target("map", "LSTM", mean=4.0),
    Target("memory", "RNN", most=0.5),
    Target("memory", "GRU", most=0.5),
    Target("memory", "LSTM", most=1.0),
    Target("import", most=150.0),
)


class Outcome(NamedTuple):
    """One thing that was asked.

    Attributes:
        what: in words.
        asked: the bound, in words.
        found: what was measured, in words.
        met: None where it was not measured.
        by_medians: the same of the medians, where there are two.
        by_firsts: the same of the first calls of a turn.
    """

    what: str
    asked: str
    found: str
    met: bool | None
    by_medians: str = "—"
    by_firsts: str = "—"


def outcomes(found: Findings, kinds: tuple[str, ...] = tuple(KINDS)) -> list[Outcome]:
    """Judge what was found by what is asked.

    Args:
        found: what one run measured.
        kinds: the kinds that were to be measured; a target of another one is left out.
    """
    judged = []
    for target in TARGETS:
        if target.kind not in kinds:
            continue
        values = _values(target, found, target.of)
        beside = {}
        if values and target.of == "ratio" and target.kind not in {"memory", "import"}:
            beside = {name: _values(target, found, of) for name, of in BESIDE.items()}
        refused = bool(found.refused.get(target.kind))
        for how, bound in _bounds(target):
            value = HOW[how](values) if values else math.nan
            outcome = _outcome(target, how, bound, value, refused)
            words = {name: _number(target, HOW[how](those)) for name, those in beside.items()}
            judged.append(outcome._replace(**words))
    return judged


BESIDE = {"by_medians": "median_ratio", "by_firsts": "first_ratio"}
HOW = {"geometric mean": geometric_mean, "nowhere below": min, "at most": max}


def _bounds(target: Target) -> list[tuple[str, float]]:
    """Return the bounds that a target has, by what they bound."""
    pairs = zip(HOW, (target.mean, target.least, target.most), strict=True)
    return [(how, bound) for how, bound in pairs if bound is not None]


def _values(target: Target, found: Findings, of: str) -> list[float]:
    """Return the numbers that a target is about."""
    if target.kind == "memory":
        return [m.ours / m.theirs for m in found.memory if m.layer == target.layer]
    if target.kind == "import":
        return [] if found.startup is None else [found.startup]
    rows = found.of(target.kind, target.layer)
    return [getattr(row, of) for row in rows if not target.large or _is_large(row)]


def _is_large(row: Row) -> bool:
    B, _, _, H = row.shape
    return H >= 256 and B >= 16


def _outcome(target: Target, how: str, bound: float, value: float, refused: bool) -> Outcome:
    """Compare one number with its bound; a comparison that was refused counts as not met."""
    kind = KINDS[target.kind]
    what = f"{target.layer or 'all layers'}: {kind.title}"
    if target.kind == "import":
        what = kind.title
    if target.of == "share":
        what += ", share of the machine's rate at H ≥ 256, B ≥ 16"
    sign = "≤" if how == "at most" else "≥"
    met = value <= bound if how == "at most" else value >= bound
    unmeasured = math.isnan(value)
    text = "not measured" if unmeasured else _number(target, value)
    if refused:
        return Outcome(f"{what}, {how}", f"{sign} {_number(target, bound)}",
                       f"{text}; some refused", False)  # fmt: skip
    return Outcome(
        f"{what}, {how}", f"{sign} {_number(target, bound)}", text, None if unmeasured else met
    )


def _number(target: Target, value: float) -> str:
    if target.kind == "import":
        return f"{value:.0f} ms"
    return f"{100 * value:.0f} %" if target.of == "share" else f"{value:.2f}"
