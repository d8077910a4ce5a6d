"""torch's own fused modules as an engine: oneDNN's or ATen's on a CPU, cuDNN's on a GPU.

They give outputs and final states, and keep for their backward pass what nobody else can read. So
a forward sweep leaves torch's own graph inside our one node, and the backward pass goes back
through it. Rows that end early or begin anew are packed (`packing`). Whatever looks at single steps
(a trace, the rows' shares, several losses at once) runs in plain torch instead, as `last_choice`
says. On a GPU the engine is chosen by itself; on a CPU `kernels.use("torch")` asks for it.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from ... import torch_state
from ...cells import AbstractCell
from ...tape import Gradients, Tape
from ..chosen import Choice, wanted
from ..engine import Demand, Engine, Outputs
from ..gpu.fused import FUSED
from ..plain.engine import Plain
from .calling import as_leaf, cell_name, function, order_of, run_fused, zeros
from .chunk import in_one_chunk
from .packing import packed

__all__ = ["TORCH", "Torch"]

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_STEPS = Plain()


class Torch(Plain):
    """torch's fused modules: on a GPU by themselves, on a CPU where `kernels.use` asks for them."""

    name = "torch"
    reads_graphs = True
    keeps_steps = False
    how = " It runs on torch's own fused module."

    def concerns(self, cell: AbstractCell) -> bool:
        """Check whether torch's modules are asked for, or the cell is on a GPU."""
        if wanted() == self.name:
            return True
        weight = cell._parameters.get("weight_hh")
        return weight is not None and torch_state.is_on_gpu(weight)

    def follows_autocast(self, cell: AbstractCell) -> bool:
        """Check whether the weights are where autocast casts them for `torch.nn`: on a GPU."""
        weight = cell.weights()["weight_hh"]
        return torch_state.is_on_gpu(weight) and weight.dtype == torch.float32

    def serves(self, cell: AbstractCell) -> bool:
        """Check whether torch has a module for such a cell."""
        return function(cell) is not None

    def obstacle(self, cell: AbstractCell, demand: Demand) -> str:
        """Return why torch's module does not apply; "" if it does."""
        if not self.serves(cell):
            return f"torch has no fused module for {cell_name(cell)}."
        weight = cell.weights()["weight_hh"]
        if weight.dtype not in DTYPES:
            return f"torch's fused modules are not for {weight.dtype}."
        for tensor in (*demand.tensors, *cell.weights().values()):
            if tensor is None:
                continue
            if tensor.dtype not in (weight.dtype, torch.bool):
                return f"a tensor has dtype {tensor.dtype}, and the weights {weight.dtype}."
            if tensor.device != weight.device:
                return f"a tensor is on {tensor.device}, and the weights on {weight.device}."
        return ""

    def chosen(self, cell: AbstractCell) -> Choice:
        """Return the choice."""
        return Choice(self.name, f"{type(cell).__name__} runs on torch's own fused module.")

    def instead(self, cell: AbstractCell, demand: Demand) -> tuple[Engine, Choice] | None:
        """Return the reference where single steps are looked at, or there is no row."""
        if not demand.states and demand.rows and demand.T:
            return None
        reason = (
            f"torch's own fused module, which would run {cell_name(cell)}, gives no single steps "
            "(for a trace, many losses or an empty batch): these run one by one in plain torch."
        )
        if not FUSED.obstacle(cell, demand):
            return FUSED, Choice(FUSED.name, reason + FUSED.how)
        return _STEPS, Choice(_STEPS.name, reason)

    def outputs(
        self,
        cell: AbstractCell,
        x: Tensor,
        s_0: Tensor | None,
        active: Tensor | None = None,
        reset: Tensor | None = None,
        *,
        keep: bool = True,
    ) -> Outputs:
        """Run torch's module forward and, with ``keep``, leave its graph in the tape (eq. 1).

        Args:
            cell: the recurrence.
            x: inputs (T, B, I).
            s_0: the initial state (B, S); None: zeros.
            active: (T, B) bool; rows that are False keep their state and output 0.
            reset: (T, B) bool, within ``active``; where True the state is zeroed before the step.
            keep: whether the backward pass will be taken.
        """
        ragged = active is not None or reset is not None
        how = packed(active, reset) if ragged else None
        if ragged and how is None:  # no row takes any step
            return super().outputs(cell, x, s_0, active, reset, keep=keep)
        given = in_one_chunk(cell, x)
        with torch.set_grad_enabled(keep):
            leaves = [as_leaf(x), *map(as_leaf, given)]
            parts = _initial(cell, x, s_0)
            weights = [leaves[1 + i] for i in order_of(cell)]
            bias = "bias_ih" in cell.weights()
            results = run_fused(function(cell), leaves[0], parts, weights, how, bias=bias)
        # With a version count of its own: the node notices where it is written into.
        h = results[0].data
        # In memory of their own: of one step torch's final state is its output.
        finals = tuple(final.detach().clone() for final in results[1:])
        if not keep:
            return Outputs(h, finals, None)
        begin = torch.cat([part.detach() for part in parts], -1)[None]
        tape = Tape(x, begin, (*results, *parts, *leaves), active, reset)
        # Packed, torch's graph holds an output of its own.
        return Outputs(h, finals, tape, shared=how is None)

    def taped(
        self,
        cell: AbstractCell,
        x: Tensor,
        s_0: Tensor,
        active: Tensor | None = None,
        reset: Tensor | None = None,
    ) -> Tape:
        """Run forward and return a tape that holds torch's graph."""
        tape = self.outputs(cell, x, s_0, active, reset).tape
        assert tape is not None
        return tape

    def gradients(
        self,
        cell: AbstractCell,
        tape: Tape,
        g: Tensor | None,
        delta_T: Tensor | None = None,
        *,
        wants: frozenset[str] | None = None,
        want_x: bool = True,
    ) -> Gradients:
        """Send one loss back through torch's own graph, or over steps where there are any.

        Args:
            cell: the recurrence.
            tape: what `outputs` left.
            g: direct gradients (T, B, H), or None.
            delta_T: what else arrives at s_T, (B, S), or None.
            wants: the weights whose gradients are wanted; None: all.
            want_x: whether dE/dx is wanted.
        """
        if not tape.holds_graph:
            return super().gradients(cell, tape, g, delta_T, wants=wants, want_x=want_x)
        n = len(cell.parts())
        (h, *finals), parts, (x, *weights) = _apart(tape.saved, 1 + n, 1 + 2 * n)
        ends = [] if g is None else [(h, g.contiguous())]
        if delta_T is not None:
            arriving = delta_T.unsqueeze(0).split(cell.parts(), -1)
            ends += [(s, d.contiguous()) for s, d in zip(finals, arriving, strict=True)]
        names = list(cell.weights())
        asked = [n for n in names if wants is None or n in wants]
        begun = [part for part in parts if part.requires_grad]  # none where s_0 was not given
        inputs = [x] * want_x + [weights[names.index(n)] for n in asked] + begun
        if not all(i.requires_grad for i in inputs):  # it was not wanted when the graph was made
            whole = self.taped(cell, tape.x, tape.s[0, 0], tape.active, tape.reset)
            return self.gradients(cell, whole, g, delta_T, wants=wants, want_x=want_x)
        found = torch.autograd.grad(
            [end for end, _ in ends],
            inputs,
            [arrived for _, arrived in ends],
            retain_graph=torch_state.keeps_graph(),
            allow_unused=True,
        )
        grads = [
            torch.zeros_like(i) if d is None else d for i, d in zip(inputs, found, strict=True)
        ]
        x_grad = grads.pop(0) if want_x else None
        by_name = dict(zip(asked, grads, strict=False))
        s_0 = torch.cat(grads[len(asked) :] or [p.detach() for p in parts], -1).squeeze(0)
        return Gradients(by_name, x_grad, s_0)


def _initial(cell: AbstractCell, x: Tensor, s_0: Tensor | None) -> tuple[Tensor, ...]:
    """Return the parts of the initial state, each (1, B, ·), as leaves."""
    if s_0 is None:
        given = zeros(cell, x)
    else:
        given = [part.contiguous() for part in s_0.detach()[None].split(cell.parts(), -1)]
    return tuple(map(as_leaf, given))


def _apart(kept: tuple[Tensor, ...], *at: int) -> list[tuple[Tensor, ...]]:
    return [kept[i:j] for i, j in pairwise((0, *at, len(kept)))]


TORCH = Torch()
