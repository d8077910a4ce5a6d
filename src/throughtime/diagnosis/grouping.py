"""Findings that say the same of several layers, taken together; symptoms put with their cause."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from .finding import Finding

__all__ = ["Group", "grouped", "named"]


class Group(NamedTuple):
    """One kind of finding.

    Attributes:
        first: the finding that comes first.
        layers: the names of all layers that it was found in; empty where it is the whole model's.
    """

    first: Finding
    layers: tuple[str, ...]

    @property
    def where(self) -> str:
        """The layers in words."""
        return named(self.layers)


def grouped(found: Iterable[Finding]) -> list[Group]:
    """Return findings by kind, severity and cause, in the order in which each kind comes first.

    Args:
        found: in their order.
    """
    groups: dict[tuple[str | None, ...], list[Finding]] = {}
    for one in found:
        groups.setdefault((one.code, one.severity, one.follows, one.remedy), []).append(one)
    return [
        Group(same[0], tuple(dict.fromkeys(one.layer for one in same if one.layer is not None)))
        for same in groups.values()
    ]


def named(layers: Iterable[str], most: int = 4) -> str:
    """Return names in words; of a layer's runs the layer's name, and how many.

    Args:
        layers: names in a flow.
        most: above so many, the others are counted.

    Example:
        >>> named(["l0", "l0@2", "l1"]), named([])
        ('l0 (2 runs) and l1', 'the model')
    """
    runs: dict[str, int] = {}
    for name in layers:
        own = name.partition("@")[0] or "the model"
        runs[own] = runs.get(own, 0) + 1
    words = [name if count == 1 else f"{name} ({count} runs)" for name, count in runs.items()]
    if not words:
        return "the model"
    if len(words) > most + 1:
        words = [*words[:most], f"{len(words) - most} more"]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
