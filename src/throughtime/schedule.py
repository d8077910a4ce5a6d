"""Which steps are kept, recomputed, or cut on the way back."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from .errors import InputTypeError, InputValueError

__all__ = ["FULL", "Checkpointed", "Full", "Schedule", "Truncated"]


@dataclass(frozen=True)
class Full:
    """Exact BPTT over all steps, everything kept (eq. 9).

    Cost:
        one sweep back; memory T·B·(S + what the cell saves).

    Example:
        >>> layer = tt.GRU(3, 5, through=tt.Full())
    """


@dataclass(frozen=True)
class Truncated:
    """Truncated BPTT, BPTT(h; h′) of Williams and Peng (1990): biased, one sweep without overlap.

    After every ``every`` steps, the losses of those steps are sent back through the last
    ``window`` steps. ``every=None`` means ``every=window``: segments that do not overlap, counted
    from the first step. ``every=1``: each loss reaches back exactly ``window`` steps; with window 1
    that is its own step alone. The terms of eq. 5 with a smaller lag are exact; the others are
    left out, so **the gradient is biased**: no lag beyond the window can be learned.

    Attributes:
        window: h, how many steps a loss may reach back.
        every: h′, how many steps' losses are sent back together.

    Cost:
        T·window/every steps back, one sweep where ``every`` is None.

    Raises:
        InputTypeError: ``window`` or ``every`` is no integer.
        InputValueError: one of them is below 1, or ``every`` above ``window``.

    Source:
        Williams and Peng (1990), "An efficient gradient-based algorithm for on-line training of
        recurrent network trajectories".

    Example:
        >>> layer = tt.GRU(3, 5, through=tt.Truncated(20))
    """

    window: int
    every: int | None = None

    def __post_init__(self) -> None:
        """Check both numbers."""
        _check_count("window", self.window)
        if self.every is not None:
            _check_count("every", self.every)
            if self.every > self.window:
                raise InputValueError(
                    f"every must not be above window={self.window}, or some losses would not reach "
                    f"their own step; got {self.every}."
                )

    def blocks(self, T: int) -> list[tuple[int, int, int]]:
        """Give, for each group of losses, the first step reached, its first and its last."""
        every = self.every or self.window
        ends = [min(end, T) for end in range(every, T + every, every)]
        begins = [end - every + 1 for end in range(every, T + every, every)]
        return [
            (max(1, begin + every - self.window), begin, end)
            for begin, end in zip(begins, ends, strict=True)
        ]


@dataclass(frozen=True)
class Checkpointed:
    """The exact gradient in bounded memory: states are kept now and then, the rest is recomputed.

    Attributes:
        every: how many steps lie between two states that are kept; √T where neither is given.
        memory: bytes, or a text like ``"64MiB"``, that the sweeps may keep beside the layer's
            input, output and their gradients: for each layer of a stack, and each direction.

    Cost:
        one more forward sweep; memory B·S·T/every + every·B·(S + what the cell saves + 2A). Where
        ``memory`` is too small for that, steps are run again as often as the optimal binomial
        schedule needs, and kept states count twice.

    Raises:
        InputTypeError: ``every`` is no integer, or ``memory`` neither a number nor a text.
        InputValueError: a value below 1, both at once, or a size that cannot be read.

    Source:
        Chen et al. (2016) for one level; Griewank and Walther (2000), and for recurrent networks
        Gruslys et al. (2016), where that does not fit.

    Example:
        >>> layer = tt.LSTM(3, 5, through=tt.Checkpointed(memory="64MiB"))
    """

    every: int | None = None
    memory: float | str | None = None

    def __post_init__(self) -> None:
        """Check what was given."""
        if self.every is not None and self.memory is not None:
            raise InputValueError("give every= or memory=, not both: one follows from the other.")
        if self.every is not None:
            _check_count("every", self.every)
        if self.memory is not None:
            self.bytes()

    def bytes(self) -> int | None:
        """Give the budget in bytes, or None."""
        return None if self.memory is None else _bytes(self.memory)


Schedule = Full | Truncated | Checkpointed
FULL = Full()

_UNITS = {"B": 1, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def _bytes(memory: object) -> int:
    wanted = 'memory must be a number of bytes, at least 1, or a text like "64MiB"'
    if isinstance(memory, bool) or not isinstance(memory, (int, float, str)):
        raise InputTypeError(f"{wanted}; got {memory!r}.")
    size = memory
    if isinstance(memory, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", memory)
        unit = _UNITS.get(match[2].upper(), 0) if match else 0
        size = float(match[1]) * unit if match else 0
    if isinstance(size, str) or not 1 <= size < math.inf:
        raise InputValueError(f"{wanted}; got {memory!r}.")
    return int(size)


def _check_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputTypeError(f"{name} must be an integer; got {value!r}.")
    if value < 1:
        raise InputValueError(f"{name} must be at least 1; got {value}.")
