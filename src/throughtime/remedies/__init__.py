"""What to change when the gradient vanishes or explodes: one file and one row a remedy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from .chrono import chrono_
from .clip import clip_gradient_
from .orthogonal import orthogonal_

__all__ = ["REMEDIES", "Remedy", "chrono_", "clip_gradient_", "orthogonal_"]


class Remedy(NamedTuple):
    """A remedy, and what it is against.

    Attributes:
        apply: changes a layer, or a gradient, in place.
        against: names of verdicts.
        what: in a sentence.
    """

    apply: Callable[..., Any]
    against: tuple[str, ...]
    what: str


REMEDIES: dict[str, Remedy] = {
    "chrono": Remedy(chrono_, ("VANISHING",), "Gate biases for lags up to the one that is needed."),
    "orthogonal": Remedy(
        orthogonal_,
        ("VANISHING", "EXPLODING"),
        "An orthogonal W_h, which neither stretches nor shrinks.",
    ),
    "clip": Remedy(
        clip_gradient_, ("EXPLODING",), "The gradient scaled down to a norm, where it is finite."
    ),
}
