"""One layer's gradients in one call: the backward sweep and the products that follow it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..cells import AbstractCell, Function
from ..tape import Tape
from . import blocks, by_row, native, sweeps
from .bare import complete, taken
from .choose import in_torch

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
        g: direct gradients (T, B, G) into the first G ≤ S entries of s_1…s_T, of which those of
            steps that a row does not take do not count, since it puts out 0 there; None: nowhere.
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
    if number is not None:
        return _run(cell, number, tape, g, delta_T, names, want_x)
    with torch.no_grad():
        g = None if g is None else taken(g, tape.active)
        tape = complete(cell, tape)
        if isinstance(cell, Function) and in_torch(cell) == "blocks":
            return Gradients(*blocks.gradients(cell, tape, g, delta_T, names, want_x))
        if g is None:
            g = tape.s.new_zeros(tape.T, tape.B, cell.hidden_size)
        lead = None if delta_T is None else delta_T[None]
        adjoints, delta_0 = sweeps.backward(cell, tape, g[None], lead)
        found = cell.param_grads(tape, adjoints[0]) if names else {}
        x = cell.input_grad(adjoints[0]) if want_x else None
    return Gradients({name: found[name] for name in names}, x, delta_0[0])


def _run(
    cell: AbstractCell,
    number: int,
    tape: Tape,
    g: Tensor | None,
    delta_T: Tensor | None,
    names: list[str],
    want_x: bool,
) -> Gradients:
    """Run the compiled way back: steps, and their products while the adjoints are in cache."""
    arguments = sweeps.back_arguments(cell, number, tape, g, delta_T, with_x=True)
    by_name = cell.weights()
    return run_back(arguments.sweep, cell, tape.x, {name: by_name[name] for name in names}, want_x)


def run_back(
    sweep: native.Sweep, cell: AbstractCell, x: Tensor, weights: dict[str, Tensor], want_x: bool
) -> Gradients:
    """Run the compiled way back into gradients that are made for it.

    Args:
        sweep: the arguments, but for what is to be written.
        cell: the recurrence.
        x: inputs (T, B, I).
        weights: those whose gradients are wanted, by name.
        want_x: whether dE/dx is wanted.
    """
    found = {name: x.new_empty(weight.shape) for name, weight in weights.items()}
    grad_x = native.empty(x, *x.shape) if want_x else None
    delta_0 = x.new_empty(sweep.B, cell.state_size)
    sweep.grads, sweep.delta_0, sweep.grad_x = 1, delta_0.data_ptr(), native.pointer(grad_x)
    for name, grad in found.items():
        setattr(sweep, f"grad_{name}", grad.data_ptr())
    native.run(sweep, back=True)
    return Gradients(found, grad_x, delta_0)
