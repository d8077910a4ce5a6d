"""A whole module in one call of torch's own function, where that is what runs it.

All layers and directions at once, as `torch.nn` has them: cuDNN takes them faster so than one after
the other. torch's own graph then stands between the input and the output, with a node of ours
behind it: see `watched`.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from .. import kernels, torch_state
from ..cells.base import AbstractCell
from ..kernels.by_row import CALLS, COLLECTORS
from ..kernels.chosen import Choice, is_allowed, note
from ..kernels.torch.chunk import Shape, together
from ..kernels.torch.engine import TORCH
from ..kernels.torch.fused import function, run
from ..kernels.torch.packing import Packing, packed
from ..node.bptt import own_precision
from ..schedules import FULL
from .inputs import Batch
from .watched import Again, Call, Results, watch

__all__ = ["Whole", "all_at_once", "whole_of"]


class Whole:
    """All layers and directions of a module, as torch's function takes them.

    It holds no reference to the module, so that it may be kept beside it.
    """

    def __init__(
        self, module: nn.RNNBase, cell: AbstractCell, weights: Sequence[Tensor], choice: Choice
    ) -> None:
        """Note what all calls share.

        Args:
            module: the module.
            cell: its first layer's.
            weights: by the names that the module has for them.
            choice: why torch's function runs it.
        """
        self.function, self.choice = function(cell), choice
        self.layers, self.both = module.num_layers, bool(module.bidirectional)
        self.bias, self.names = bool(module.bias), tuple(module._flat_weights_names)
        self.widths, self.runs = cell.parts(), self.layers * (2 if self.both else 1)
        self.shape = Shape.of(cell)._replace(layers=self.layers, both=self.both)
        self.noted = [(w, w.dtype, w.device, w.shape) for w in weights]

    def holds(self, weights: Sequence[Tensor | None]) -> bool:
        """Check whether these are the weights that were noted, still of the same kind."""
        if len(weights) != len(self.noted):
            return False
        for weight, (own, dtype, device, shape) in zip(weights, self.noted, strict=True):
            if weight is not own or own.dtype is not dtype:
                return False
            if own.device != device or own.shape != shape:
                return False
        return True

    def takes(self, x: Tensor, parts: Sequence[Tensor]) -> bool:
        """Check whether an input (T, B, I), and the parts of a state if any, are ordinary."""
        _, dtype, device, _ = self.noted[0]
        if x.dim() != 3 or x.shape[2] != self.shape.I or not x.numel() or COLLECTORS or CALLS:
            return False
        if x.dtype is not dtype or x.device != device:
            return False
        if torch_state.is_autocast(x) or torch_state.is_faked(x):
            return False
        if not parts:
            return True
        return len(parts) == len(self.widths) and all(
            part.shape == (self.runs, x.shape[1], width)
            and part.dtype is dtype
            and part.device == device
            for part, width in zip(parts, self.widths, strict=True)
        )

    def call(
        self,
        again: Again,
        x: Tensor,
        parts: Sequence[Tensor],
        weights: Sequence[Tensor],
        how: Packing | None = None,
    ) -> Results:
        """Run torch's function: the output (T, B, D·H), and the final states, each (L·D, B, ·).

        Args:
            again: runs layer by layer from the same, for what torch's graph cannot do.
            x: inputs (T, B, I).
            parts: of the initial state, each (L·D, B, ·); none: zeros.
            weights: by ``names``.
            how: which steps each row takes; None: all.
        """
        note(self.choice)
        own = list(weights)
        if torch_state.is_on_gpu(x):
            own = together(own, self.shape)
        begin = tuple(parts)
        if not begin:
            begin = tuple([x.new_zeros(self.runs, x.shape[1], width) for width in self.widths])
        h, *finals = run(
            self.function, x, begin, own, how, bias=self.bias, layers=self.layers, both=self.both
        )
        if x.shape[0] == 1:  # of one step torch's final state is its output
            finals = [final.clone() for final in finals]
        if not h.requires_grad:
            return h, tuple(finals)
        call = Call(self.choice, self.names, again, len(parts), 1 + len(parts) + len(weights))
        return watch(call, (x, *parts, *weights), (h, *finals))


def whole_of(
    module: nn.RNNBase, cell: AbstractCell, weights: Sequence[Tensor | None], *tensors: Tensor
) -> Whole | None:
    """Return a module as torch's function takes it; None where that is not what runs it.

    Args:
        module: the module.
        cell: its first layer's.
        weights: by the names that the module has for them.
        tensors: what else the call is given, as far as it is known.
    """
    # First what is quick to ask, since every call on a CPU comes by.
    if not is_allowed(TORCH.name) or not TORCH.concerns(cell) or not TORCH.serves(cell):
        return None
    ordinary = [w for w in weights if type(w) in (Tensor, nn.Parameter)]
    if len(ordinary) < len(weights) or len(weights) != len(module._flat_weights_names):
        return None
    choice = kernels.choice(cell, *tensors)
    return Whole(module, cell, ordinary, choice) if choice.name == TORCH.name else None


def all_at_once(
    module: nn.RNNBase,
    cell: AbstractCell,
    batch: Batch,
    x: Tensor,
    hx: tuple[Tensor, ...] | None,
    given: dict[str, Tensor] | None,
    again: Again,
) -> Results | None:
    """Return a module's output (T, B, D·H) and final states; None where layers run one by one.

    Args:
        module: a module without a recording.
        cell: the first layer's.
        batch: the masks.
        x: inputs (T, B, I).
        hx: the parts of the initial state, each (L·D, B, ·); None: zeros.
        given: what stands in for the module's weights, by name; None: they themselves.
        again: runs layer by layer from x, the parts and such weights.
    """
    if not x.numel() or getattr(module, "through", FULL) != FULL or CALLS or COLLECTORS:
        return None
    if module.dropout and module.training:
        return None
    names: list[str] = module._flat_weights_names
    weights = [getattr(module, name) if given is None else given[name] for name in names]
    whole = whole_of(module, cell, weights, batch.x)
    if whole is None or torch_state.is_transformed((x, *(hx or ()), *weights)):
        return None
    how = None
    if batch.active is not None or batch.reset is not None:
        how = packed(batch.active, batch.reset)
        if how is None:
            return None
    with own_precision(x):
        return whole.call(again, x, hx or (), weights, how)
