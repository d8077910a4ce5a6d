"""torch's own fused modules as an engine: oneDNN's or ATen's on a CPU, cuDNN's on a GPU.

They give outputs and final states, and keep for their backward pass what nobody else can read. So
a forward sweep leaves torch's own graph inside our one node, and the backward pass goes back
through it. Whatever looks at single steps (a trace, a schedule other than `Full`, lengths, resets,
the rows' shares, several losses at once) runs in plain torch instead, as `last_choice` says.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ...cells import GRU, LSTM, AbstractCell, Elman
from ...tape import Gradients, Tape
from ..chosen import Choice, wanted
from ..engine import Demand, Engine, Outputs
from ..plain.engine import Plain

__all__ = ["TORCH", "Torch"]

# torch's names for the recurrences that it has, by nonlinearity for the Elman cell.
ELMAN = {"tanh": "rnn_tanh", "relu": "rnn_relu"}
_STEPS = Plain()


class Torch(Plain):
    """torch's fused modules, where `kernels.use` asks for them."""

    name = "torch"
    reads_graphs = True

    def serves(self, cell: AbstractCell) -> bool:
        """Check whether torch has a module for such a cell."""
        return _function(cell) is not None

    def obstacle(self, cell: AbstractCell, demand: Demand) -> str:
        """Return why torch's module does not apply; "" if it does."""
        del demand
        if wanted() != self.name:
            return "torch's fused modules run only where kernels.use('torch') asks for them."
        return "" if self.serves(cell) else f"torch has no fused module for {_called(cell)}."

    def chosen(self, cell: AbstractCell) -> Choice:
        """Return the choice."""
        return Choice(self.name, f"{type(cell).__name__} runs on torch's own fused module.")

    def instead(self, cell: AbstractCell, demand: Demand) -> tuple[Engine, Choice] | None:
        """Return the reference where single steps are looked at, or there is no row."""
        if not demand.states and demand.rows and demand.T:
            return None
        reason = (
            "kernels.use('torch') asks for torch's fused modules, and these give no single steps "
            "(a trace, a schedule, lengths, resets, many losses, an empty batch): these run one by "
            "one in plain torch."
        )
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
            active: None: rows that take fewer steps are for the reference.
            reset: None likewise.
            keep: whether the backward pass will be taken.
        """
        del active, reset
        weights = cell.weights()
        with torch.set_grad_enabled(keep):
            leaves = [_leaf(x), *map(_leaf, weights.values())]
            parts = _initial(cell, x, s_0)
            results = _run(cell, leaves[0], parts, leaves[1:])
        # With a version count of its own: the node notices where it is written into.
        h = results[0].data
        # In memory of their own: of one step torch's final state is its output.
        finals = tuple(final.detach().clone() for final in results[1:])
        if not keep:
            return Outputs(h, finals, None)
        begin = torch.cat([part.detach() for part in parts], -1)[None]
        return Outputs(h, finals, Tape(x, begin, (*results, *parts, *leaves)), shared=True)

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
        inputs = [x] * want_x + list(parts) + [weights[names.index(n)] for n in asked]
        found = torch.autograd.grad(
            [end for end, _ in ends],
            inputs,
            [arrived for _, arrived in ends],
            retain_graph=True,  # whether the caller's graph is retained is not known here
            allow_unused=True,
        )
        grads = [
            i.new_zeros(i.shape) if d is None else d for i, d in zip(inputs, found, strict=True)
        ]
        at = int(want_x)
        s_0 = torch.cat(grads[at : at + n], -1).squeeze(0)
        by_name = dict(zip(asked, grads[at + n :], strict=True))
        return Gradients(by_name, grads[0] if want_x else None, s_0)


def _function(cell: AbstractCell) -> Any:
    """Return torch's function for a cell's recurrence, or None."""
    if type(cell) is Elman:
        name = ELMAN.get(cell.nonlinearity)
    else:
        name = {LSTM: "lstm", GRU: "gru"}.get(type(cell))  # pyright: ignore[reportArgumentType]
    return None if name is None else getattr(torch._VF, name)  # pyright: ignore


def _called(cell: AbstractCell) -> str:
    kind = getattr(cell, "nonlinearity", None)
    return f"{type(cell).__name__}" + (f" with nonlinearity={kind!r}" if kind else "")


def _leaf(tensor: Tensor) -> Tensor:
    """Return a tensor over the same memory and version, at which a graph of its own begins."""
    leaf = tensor.detach()
    return leaf.requires_grad_() if torch.is_grad_enabled() else leaf


def _initial(cell: AbstractCell, x: Tensor, s_0: Tensor | None) -> tuple[Tensor, ...]:
    """Return the parts of the initial state, each (1, B, ·), as leaves."""
    if s_0 is None:
        given = [x.new_zeros(1, x.shape[1], width) for width in cell.parts()]
    else:
        given = [part.contiguous() for part in s_0.detach()[None].split(cell.parts(), -1)]
    return tuple(map(_leaf, given))


def _run(
    cell: AbstractCell, x: Tensor, parts: tuple[Tensor, ...], weights: list[Tensor]
) -> tuple[Tensor, ...]:
    """Return h (T, B, H) and the parts of the final state, each (1, B, ·)."""
    hx: Any = parts[0] if len(parts) == 1 else parts
    bias = "bias_ih" in cell.weights()
    order = [weights[i] for i in _torchs_order(cell)]
    train = torch.is_grad_enabled()
    return _function(cell)(x, hx, order, bias, 1, 0.0, train, False, False)


def _torchs_order(cell: AbstractCell) -> list[int]:
    """Return where torch's flat weights stand among the cell's."""
    names = list(cell.weights())
    order = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
    return [names.index(name) for name in order if name in names]


def _apart(kept: tuple[Tensor, ...], *at: int) -> list[tuple[Tensor, ...]]:
    return [kept[i:j] for i, j in pairwise((0, *at, len(kept)))]


TORCH = Torch()
