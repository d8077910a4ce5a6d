"""Fast path for the common call: one layer, one direction, from zeros, all steps.

On short sequences the general path's checks cost more than the sweeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from .. import kernels
from ..kernels.chosen import wanted
from ..node.eager import bptt_prepared
from ..schedules import Full
from ..torch_state import is_transformed
from .inputs import mask
from .stack import cell_of

__all__ = ["quick"]

# With what was asked for when they were prepared, which decides whose sweeps they are.
_PREPARED: WeakKeyDictionary[nn.Module, tuple[str, str, kernels.Prepared]] = WeakKeyDictionary()


def quick(module: nn.RNNBase, input: object, lengths: Tensor | Sequence[int] | None):
    """Return what `run` returns, or None where anything is unusual; `run` then says what is wrong.

    Args:
        module: one of this package's layers, whose state begins at 0.
        input: what was given for x (T, B, I), or (B, T, I) with ``batch_first``.
        lengths: (B,) how many steps each row takes, or None.
    """
    if torch.compiler.is_compiling() or type(input) is not Tensor:
        return None
    if module.num_layers != 1 or module.bidirectional or type(module.through) is not Full:
        return None
    weights = tuple(module._parameters.values())
    if is_transformed((input, *weights)):
        return None
    prepared = _prepared(module, weights)
    if prepared is None or input.dim() != 3:
        return None
    x = input.transpose(0, 1) if module.batch_first else input
    if not prepared.takes(x):
        return None
    known = active = None
    if lengths is not None:
        known = prepared.lengths(lengths, x)
        if known is None:
            return None
        active = partial(mask, known, x)
    h, finals = bptt_prepared(prepared, x, known, active)
    return h.transpose(0, 1) if module.batch_first else h, finals[0] if len(finals) == 1 else finals


def _prepared(module: nn.RNNBase, weights: tuple[Tensor | None, ...]) -> kernels.Prepared | None:
    """Return the sweeps over a module's weights, prepared anew when these have changed."""
    found = _PREPARED.get(module)
    now = module.mode, wanted()
    if found is not None and found[:2] == now and found[2].holds(weights):
        return found[2]
    if not all(type(weight) is nn.Parameter for weight in weights):
        return None
    prepared = kernels.prepare(cell_of(module, "l0"))
    if prepared is None or not prepared.holds(weights):
        return None
    _PREPARED[module] = (*now, prepared)
    return prepared
