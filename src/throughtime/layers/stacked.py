"""A whole module in one call of torch's own function, where that is what runs it.

All layers and directions at once, as `torch.nn` has them: cuDNN takes them faster so than one after
the other. torch's own graph then stands between the input and the output, with a node of ours
behind it: see `behind`.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from .. import kernels, torch_state
from ..cells.base import AbstractCell
from ..kernels.by_row import CALLS, COLLECTORS
from ..kernels.chosen import Choice, note
from ..kernels.torch.calling import function, run_fused
from ..kernels.torch.chunk import RNNDescriptor, together
from ..kernels.torch.packing import Packing, packed
from ..node.bptt import own_precision
from ..schedules import FULL
from .behind import CallContext, node_behind
from .directions import Masks, Results, all_weights, cell_of

__all__ = ["Whole", "all_at_once", "whole_of"]


class Whole:
    """All layers and directions of a module, as torch's function takes them.

    It holds no reference to the module, so that it may be kept beside it.
    """

    def __init__(
        self, module: nn.RNNBase, cell: AbstractCell, weights: dict[str, Tensor], choice: Choice
    ) -> None:
        """Note what all calls share.

        Args:
            module: the module.
            cell: its first layer's.
            weights: by name, in the order of the module's.
            choice: why torch's function runs it.
        """
        self.function, self.choice = function(cell), choice
        self.layers, self.both = module.num_layers, bool(module.bidirectional)
        self.bias, self.names = bool(module.bias), tuple(weights)
        self.widths, self.runs = cell.parts(), self.layers * (2 if self.both else 1)
        self.shape = RNNDescriptor.of(cell)._replace(layers=self.layers, both=self.both)
        self.weights = tuple(weights.values())
        self.noted = [(w, w.dtype, w.device, w.shape) for w in self.weights]

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

    def quickly(
        self,
        module: nn.RNNBase,
        x: Tensor,
        parts: tuple[Tensor, ...],
        weights: Sequence[Tensor | None],
        lengths: object,
        reset: object,
    ) -> Results | None:
        """Do what `call` does; None where anything is unusual, as rows that end early are."""
        if lengths is not None or reset is not None or not self.takes(x, parts):
            return None
        return self.call(module, x, parts, weights)  # pyright: ignore[reportArgumentType] # they hold

    def call(
        self,
        module: nn.RNNBase,
        x: Tensor,
        parts: Sequence[Tensor],
        weights: Sequence[Tensor],
        masks: Masks = (None, None),
        how: Packing | None = None,
    ) -> Results:
        """Run torch's function: the output (T, B, D·H), and the final states, each (L·D, B, ·).

        Args:
            module: the module.
            x: inputs (T, B, I).
            parts: of the initial state, each (L·D, B, ·); none: zeros.
            weights: by ``names``.
            masks: which steps each row takes, and where it begins anew.
            how: the same as a packing; None: all, from the first.
        """
        note(self.choice)
        own = together(list(weights), self.shape, x)
        h, *finals = run_fused(
            self.function, x, tuple(parts) or self._zeros(x), own, how,
            bias=self.bias, layers=self.layers, both=self.both,
        )  # fmt: skip
        if x.shape[0] == 1:  # of one step torch's final state is its output
            finals = [final.clone() for final in finals]
        if not h.requires_grad:
            return h, tuple(finals)
        given = (x, *parts, *weights)
        call = CallContext(module, masks, self.choice, self.names, len(parts), len(given))
        return node_behind(call, given, (h, *finals))

    def _zeros(self, x: Tensor) -> tuple[Tensor, ...]:
        first = x.new_zeros(self.runs, x.shape[1], self.widths[0])
        # The parts may share memory, which nobody writes into.
        return tuple(
            [
                first if w == self.widths[0] else x.new_zeros(self.runs, x.shape[1], w)
                for w in self.widths
            ]
        )


def whole_of(
    module: nn.RNNBase, given: dict[str, Tensor] | None, *tensors: Tensor | None
) -> Whole | None:
    """Return a module as torch's function takes it; None where that is not what runs it.

    Args:
        module: the module.
        given: what stands in for the module's weights, by name; None: they themselves.
        tensors: what else the call is given, as far as it is known.
    """
    cell = cell_of(module, "l0")
    choice = kernels.in_one_call(cell, *tensors)
    if choice is None:
        return None
    named = all_weights(module) if given is None else given
    weights = tuple(named.values())
    if any(type(w) not in (Tensor, nn.Parameter) for w in weights):
        return None
    if any(w.dtype != weights[0].dtype or w.device != weights[0].device for w in weights):
        return None
    return Whole(module, cell, named, choice)


def all_at_once(
    module: nn.RNNBase,
    x: Tensor,
    hx: tuple[Tensor, ...] | None,
    given: dict[str, Tensor] | None,
    masks: Masks,
) -> Results | None:
    """Return a module's output (T, B, D·H) and final states; None where layers run one by one.

    Args:
        module: a module without a recording.
        x: inputs (T, B, I).
        hx: the parts of the initial state, each (L·D, B, ·); None: zeros.
        given: what stands in for the module's weights, by name; None: they themselves.
        masks: ``active`` and ``reset``, (T, B) each, or None.
    """
    if not x.numel() or getattr(module, "through", FULL) != FULL or CALLS or COLLECTORS:
        return None
    if module.dropout and module.training:
        return None
    whole = whole_of(module, given, None if given else x)
    if whole is None or torch_state.is_transformed((x, *(hx or ()), *whole.weights)):
        return None
    how = None
    if any(mask is not None for mask in masks):
        how = packed(*masks)
        if how is None:
            return None
    with own_precision(x):
        return whole.call(module, x, hx or (), whole.weights, masks, how)
