"""One layer's gradients in one call: the backward sweep and the GEMMs that follow it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..cells import GRU, AbstractCell, Function
from ..shapes import check
from ..tape import Tape
from . import blocks, by_row, native, sweeps
from .choose import in_torch
from .steps import Places

__all__ = ["Gradients", "gradients"]


class Gradients(NamedTuple):
    """What a training step needs.

    Attributes:
        weights: dE/dW by the names of ``cell.weights()``; only those that were wanted.
        x: dE/dx (T, B, I), or None.
        s_0: dE/ds_0 (B, S).
    """

    weights: dict[str, Tensor]
    x: Tensor | None
    s_0: Tensor


def gradients(
    cell: AbstractCell,
    tape: Tape,
    g: Tensor | None,
    delta_T: Tensor | None = None,
    *,
    wants: frozenset[str] | None = None,
    want_x: bool = True,
) -> Gradients:
    """Send one loss back and give every gradient that is wanted (eq. 5, 9).

    Args:
        cell: the recurrence.
        tape: what its forward sweep kept.
        g: direct gradients (T, B, G) into the first G ≤ S entries of s_1…s_T; None: nowhere.
        delta_T: what else arrives at s_T, (B, S).
        wants: the weights whose gradients are wanted; None: all.
        want_x: whether dE/dx is wanted.

    Cost:
        a backward sweep and one GEMM for each of W_x, W_h and x; memory T·B·(A + I).

    Example:
        >>> from throughtime.cells import Elman
        >>> cell = Elman(3, 5)
        >>> tape = sweeps.forward(cell, torch.zeros(7, 2, 3), torch.zeros(2, 5))
        >>> gradients(cell, tape, torch.ones(7, 2, 5)).weights["weight_hh"].shape
        torch.Size([5, 5])
    """
    names = list(cell.weights()) if wants is None else [n for n in cell.weights() if n in wants]
    if by_row.COLLECTORS:
        with torch.no_grad():
            return Gradients(*by_row.gradients(cell, tape, g, delta_T, names, want_x))
    number = sweeps.decide_back(cell, tape, g, delta_T)
    with torch.no_grad():
        if number is not None:
            return _Back(cell, tape, names, want_x).run(number, g, delta_T)
        if isinstance(cell, Function) and in_torch(cell) == "blocks":
            return Gradients(*blocks.gradients(cell, tape, g, delta_T, names, want_x))
        if g is None:
            g = tape.s.new_zeros(tape.T, tape.B, cell.hidden_size)
        lead = None if delta_T is None else delta_T[None]
        adjoints, delta_0 = sweeps.backward(cell, tape, g[None], lead)
        found = cell.param_grads(tape, adjoints[0]) if names else {}
        x = cell.input_grad(adjoints[0]) if want_x else None
    return Gradients({name: found[name] for name in names}, x, delta_0[0])


class _Back:
    """The way back part by part: some steps, then their GEMMs while the adjoints are in cache."""

    def __init__(self, cell: AbstractCell, tape: Tape, names: list[str], want_x: bool) -> None:
        self.cell, self.tape, self.names = cell, tape, names
        self.width = 4 * cell.hidden_size if isinstance(cell, GRU) else cell.preact_size
        self.weights: dict[str, Tensor] = {}
        self.x = native.empty(tape.x, *tape.x.shape) if want_x else None

    def run(self, number: int, g: Tensor | None, delta_T: Tensor | None) -> Gradients:
        cell, tape, s = self.cell, self.tape, self.tape.s
        B, S = tape.B, cell.state_size
        parts = sweeps.split(tape.T, B, self.width * s.element_size())
        steps = sweeps.back_steps(cell, number, tape, None if g is None else g[None])
        most = max(last - first for first, last in parts)
        buffer = native.empty(s, most, B, self.width)
        delta = s.new_zeros(B, S) if delta_T is None else delta_T.contiguous()
        check("delta_T", delta, "B S", {"B": B, "S": S}, like=s)
        sweep = steps.sweep
        sweep.width, sweep.adjoints = self.width, buffer.data_ptr()
        for first, last in reversed(parts):
            sweep.delta_T = delta.data_ptr()
            delta_0 = s.new_empty(B, S)
            sweep.delta_0 = delta_0.data_ptr()
            places = None if tape.active is None else Places.among(tape.active[first:last])
            steps.run(first, last, places=places)
            delta = delta_0
            flat = buffer[: last - first].view(-1, self.width)
            self._add(first, last, flat if places is None else flat[: len(places.taken)], places)
        return Gradients({name: self.weights[name] for name in self.names}, self.x, delta)

    def _add(self, first: int, last: int, flat: Tensor, places: Places | None) -> None:
        """Add what the adjoints of these steps give to every gradient (eq. 5)."""
        H, A, tape = self.cell.hidden_size, self.cell.preact_size, self.tape
        # GRU: the columns are (δr, δz, δn, δn ⊙ r); the hidden side is the first two and the last.
        hidden = [flat] if self.width == A else [flat[:, : 2 * H], flat[:, A:]]
        x = tape.x[first:last]
        x = x.reshape(-1, x.shape[-1]) if places is None else places.pick(x)
        if "weight_ih" in self.names:
            self._add_product("weight_ih", [flat[:, :A]], x)
        if "weight_hh" in self.names:
            h_prev = tape.steps(first + 1, last).s_prev()[..., :H]
            h_prev = h_prev.flatten(0, 1) if places is None else places.pick(h_prev)
            self._add_product("weight_hh", hidden, h_prev)
        if "bias_ih" in self.names or "bias_hh" in self.names:
            total = flat.sum(0)
            sides = {"bias_ih": total[:A], "bias_hh": total.clone()}
            if self.width > A:
                sides["bias_hh"] = torch.cat((total[: 2 * H], total[A:]))
            for name, side in sides.items():
                before = self.weights.get(name)
                self.weights[name] = side if before is None else before.add_(side)
        if self.x is not None:
            weight: Tensor = self.cell.weight_ih  # pyright: ignore[reportAssignmentType]
            grad_x = self.x[first:last].view(-1, x.shape[1])
            if places is None:
                torch.mm(flat[:, :A], weight, out=grad_x)
            else:
                grad_x.zero_().index_copy_(0, places.taken, flat[:, :A] @ weight)

    def _add_product(self, name: str, left: list[Tensor], right: Tensor) -> None:
        """Add leftᵀ right to a weight's gradient, whose rows are those of ``left`` in turn."""
        fresh = name not in self.weights
        if fresh:
            rows = sum(part.shape[1] for part in left)
            self.weights[name] = right.new_empty(rows, right.shape[1])
        grads = self.weights[name].split([part.shape[1] for part in left])
        for grad, part in zip(grads, left, strict=True):
            if fresh:
                torch.mm(part.T, right, out=grad)
            else:
                grad.addmm_(part.T, right)
