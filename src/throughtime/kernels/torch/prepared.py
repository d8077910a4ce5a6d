"""A cell on torch's fused module, for the plainest calls: from zeros, all steps, one loss.

`throughtime.kernels.engine.Prepared` says what that is for. torch's own module takes 0.2 ms for a
short sequence, and so would the checks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...cells import AbstractCell
from ...torch_state import is_autocast, is_faked, keeps_graph
from ..by_row import COLLECTORS
from ..chosen import Choice, note
from ..engine import Prepared
from .chunk import in_one_chunk
from .fused import function, leaf, order_of, run, zeros

__all__ = ["Done", "PreparedModule"]


class Done(NamedTuple):
    """A forward pass's results.

    Attributes:
        h: (T, B, H).
        finals: the final state by the cell's ``parts``, each (1, B, ·).
        kept: what the general backward pass needs beside x and the weights: see `engine`.
        shared: whether torch's graph holds ``h`` too.
        done: nothing more.
    """

    h: Tensor
    finals: tuple[Tensor, ...]
    kept: tuple[Tensor, ...]
    shared: bool
    done: None = None


class PreparedModule(Prepared):
    """torch's module for one cell over weights that stay.

    It leaves `one_by_one` at False, since cuDNN is faster with all layers at once.
    """

    def __init__(
        self, cell: AbstractCell, choice: Choice, is_current: Callable[[AbstractCell], bool]
    ) -> None:
        """Note the weights.

        Args:
            cell: the recurrence.
            choice: what `kernels.last_choice` then says.
            is_current: checks whether the engine still runs such a cell.
        """
        self.cell, self.choice, self.is_current = cell, choice, is_current
        self.weights = tuple(cell.weights().values())
        self.noted = [(w, w.dtype, w.device, w.shape) for w in self.weights]
        self.order, self.function = order_of(cell), function(cell)
        self.bias = "bias_ih" in cell.weights()

    def holds(self, weights: Sequence[Tensor | None]) -> bool:
        """Check whether these are the weights, of the same kind."""
        if len(weights) != len(self.noted):
            return False
        for weight, (own, dtype, device, shape) in zip(weights, self.noted, strict=True):
            if weight is not own or own.dtype is not dtype:
                return False
            if own.device != device or own.shape != shape:
                return False
        return True

    def takes(self, x: Tensor) -> bool:
        """Check whether ``x`` is an ordinary tensor (T, B, I)."""
        _, dtype, device, _ = self.noted[0]
        if x.dim() != 3 or x.shape[2] != self.cell.input_size or not x.numel():
            return False
        plain = type(x) is Tensor and x.dtype is dtype and x.device == device
        return plain and self.is_current(self.cell) and not is_autocast(x) and not is_faked(x)

    def forward(
        self,
        x: Tensor,
        s_0: Tensor | None = None,
        lengths: None = None,
        reset: Tensor | None = None,
        *,
        keep: bool,
    ) -> Done:
        """Run the recurrence from s_0 = 0 over an input that it `takes` (eq. 1).

        Args:
            x: inputs (T, B, I).
            s_0: None.
            lengths: None.
            reset: None.
            keep: whether the backward pass will be taken.
        """
        del s_0, lengths, reset
        cell, parts = self.cell, zeros(self.cell, x)
        given = in_one_chunk(cell, x)
        note(self.choice)
        if not keep:
            with torch.no_grad():
                h, *finals = self._run(x, parts, given)
                return Done(h, tuple(part.clone() for part in finals), (), False)
        with torch.enable_grad():
            # Only what needs a gradient: torch's graph then is that of torch's own module.
            wanted = zip((x, *given), (x, *self.weights), strict=True)
            inner, *weights = (leaf(t) if own.requires_grad else t.detach() for t, own in wanted)
            results = self._run(inner, parts, weights)
        h, finals = results[0].data, tuple(part.detach().clone() for part in results[1:])
        begin = parts[0][..., :1].expand(1, 1, x.shape[1], cell.state_size)
        return Done(h, finals, (begin, *results, *parts, inner, *weights), True)

    def _run(
        self, x: Tensor, parts: Sequence[Tensor], weights: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        ordered = [weights[i] for i in self.order]
        return run(self.function, x, tuple(parts), ordered, bias=self.bias)

    def back(
        self,
        done: None,
        saved: Sequence[Tensor],
        reset: Tensor | None,
        g: Tensor | None,
        delta_T: Tensor | None,
        needs: Sequence[bool],
    ) -> list[Tensor | None] | None:
        """Send one loss back through torch's graph; None where something is unusual.

        Args:
            done: None.
            saved: x, the weights and what was kept, as autograd returns them.
            reset: None.
            g: direct gradients (T, B, H); None: nowhere.
            delta_T: what else arrives at s_T, or None.
            needs: whether the gradient of x, of s_0 and of each weight is wanted.

        Returns:
            The gradients of x (T, B, I), of s_0, which is None, and of each weight, or None for
            each that is not wanted.
        """
        del done, reset
        n = len(self.weights) + 1
        if COLLECTORS or not self.is_current(self.cell) or not self.holds(saved[1:n]):
            return None
        if delta_T is not None or type(g) is not Tensor or is_autocast(g) or is_faked(g):
            return None
        h, leaves = saved[n + 1], saved[-n:]
        needs = needs[0], *needs[2:]
        inputs = [inner for inner, need in zip(leaves, needs, strict=True) if need]
        note(self.choice)
        # Freed as it is gone through, unless the caller's own graph is retained.
        kept = keeps_graph()
        found = iter(torch.autograd.grad(h, inputs, g.contiguous(), retain_graph=kept))
        of_x, *weights = (next(found) if need else None for need in needs)
        return [of_x, None, *weights]
