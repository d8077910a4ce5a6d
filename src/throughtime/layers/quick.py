"""Fast path for the common call: nothing unusual comes in, and what runs it is prepared.

On short sequences the general path's checks cost more than the sweeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from .. import kernels
from ..kernels.chosen import wanted
from ..node.eager import bptt_prepared
from ..schedules import Full
from ..torch_state import is_transformed
from .directions import Results, cell_of, each_run, suffixes
from .inputs import length_mask
from .stacked import Whole, whole_of

__all__ = ["quick"]

Parts = tuple[Tensor, ...]


def quick(
    module: nn.RNNBase,
    input: object,
    hx: object,
    lengths: Tensor | Sequence[int] | None,
    reset: Tensor | None,
):
    """Return what `run` returns, or None where anything is unusual; `run` then says what is wrong.

    Args:
        module: one of this package's layers.
        input: what was given for x (T, B, I), or (B, T, I) with ``batch_first``.
        hx: the initial state as ``torch.nn`` takes it; zeros where None.
        lengths: (B,) how many steps each row takes, or None.
        reset: (T, B) bool, True where a row's state is zeroed before the step, or None.
    """
    if torch.compiler.is_compiling() or type(input) is not Tensor:
        return None
    if type(module.through) is not Full or (module.dropout and module.training):
        return None
    weights = tuple(module._parameters.values())
    parts = () if hx is None else _parts(hx)
    if parts is None or is_transformed((input, *parts, *weights)):
        return None
    prepared = _prepared(module, weights)
    if prepared is None or input.dim() != 3:
        return None
    x = input.transpose(0, 1) if module.batch_first else input
    found = prepared.quickly(module, x, parts, weights, lengths, reset)
    if found is None:
        return None
    h, finals = found
    return h.transpose(0, 1) if module.batch_first else h, finals[0] if len(finals) == 1 else finals


class _Sweeps:
    """The prepared sweeps of each layer and direction, in the order of the module's weights."""

    def __init__(self, sweeps: tuple[kernels.Prepared, ...]) -> None:
        self.sweeps = sweeps

    def holds(self, weights: Sequence[Tensor | None]) -> bool:
        """Check whether these are the sweeps' weights, those of each run after the last's."""
        sweeps = self.sweeps
        if len(sweeps) == 1:
            return sweeps[0].holds(weights)
        n = len(weights) // len(sweeps)
        if n * len(sweeps) != len(weights):
            return False
        return all(s.holds(weights[i * n : i * n + n]) for i, s in enumerate(sweeps))

    def quickly(
        self, module: nn.RNNBase, x: Tensor, parts: Parts, weights: object, lengths, reset
    ) -> Results | None:
        """Run the sweeps; None where anything is unusual."""
        del weights
        # Of the rest together only the general path knows the order.
        masked = lengths is not None or reset is not None
        if masked and (module.bidirectional or (lengths is not None and reset is not None)):
            return None
        first, runs = self.sweeps[0], len(self.sweeps)
        if not first.takes(x) or (reset is not None and not first.takes_reset(reset, x)):
            return None
        states = first.begin(parts, x, runs) if parts else (None,) * runs
        known = None if lengths is None else first.lengths(lengths, x)
        if states is None or (known is None) != (lengths is None):
            return None
        active = None if known is None else partial(length_mask, known, x)
        if runs == 1:
            return bptt_prepared(first, x, states[0], known, active, reset)
        return self._each(module, x, states, known, active, reset)

    # Apart, since names that an inner function reads make every call of the outer one slower.
    def _each(
        self, module: nn.RNNBase, x: Tensor, states: Sequence[Tensor | None], *masks: Any
    ) -> Results:
        """Run several layers and directions."""
        directions = 2 if module.bidirectional else 1

        def one(run: int, x: Tensor) -> Results:
            back = run % directions > 0
            x = x.flip(0) if back else x
            h, final = bptt_prepared(self.sweeps[run], x, states[run], *masks)
            return h.flip(0) if back else h, final

        return each_run(one, x, module.num_layers, directions)


# With what was asked for when they were prepared, which decides what runs.
_PREPARED: WeakKeyDictionary[nn.Module, tuple[str, str, _Sweeps | Whole]] = WeakKeyDictionary()


def _parts(hx: object) -> tuple[Tensor, ...] | None:
    """Return the parts of an initial state; None where they are no ordinary tensors."""
    if isinstance(hx, Tensor):
        parts = (hx,)
    elif isinstance(hx, (tuple, list)) and len(hx) == 2:  # a single one comes without a tuple
        parts = tuple(hx)
    else:
        return None
    return parts if all(type(part) in (Tensor, nn.Parameter) for part in parts) else None


def _prepared(module: nn.RNNBase, weights: tuple[Tensor | None, ...]) -> _Sweeps | Whole | None:
    """Return what runs a module over its weights, prepared anew when these have changed."""
    found = _PREPARED.get(module)
    mode, asked = module.mode, wanted()
    if found is not None:
        its_mode, its_asked, prepared = found
        if its_mode == mode and its_asked == asked and prepared.holds(weights):
            return prepared
    if not all(type(weight) is nn.Parameter for weight in weights):
        return None
    new = _prepare(module)
    if new is None or not new.holds(weights):
        return None
    _PREPARED[module] = (mode, asked, new)
    return new


def _prepare(module: nn.RNNBase) -> _Sweeps | Whole | None:
    whole = whole_of(module, None)
    if whole is not None:
        return whole
    prepared = [kernels.prepare(cell_of(module, suffix)) for suffix in suffixes(module)]
    sweeps = tuple(one for one in prepared if one is not None)
    return _Sweeps(sweeps) if len(sweeps) == len(prepared) else None
