"""One layer's gradients in one call: the backward sweep and the GEMMs that follow it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..cells import GRU, AbstractCell
from ..tape import Tape
from . import sweeps

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
    lead = None if delta_T is None else delta_T[None]
    number = sweeps.decide_back(cell, tape, g, delta_T)
    if g is None and (number is None or delta_T is None):
        g = tape.s.new_zeros(tape.T, tape.B, cell.hidden_size)
    with torch.no_grad():
        if number is None:
            assert g is not None
            adjoints, delta_0 = sweeps.reference.backward(cell, tape, g[None], lead)
            found = cell.param_grads(tape, adjoints[0]) if names else {}
            weights = {name: found[name] for name in names}
        else:
            width = 4 * cell.hidden_size if isinstance(cell, GRU) else cell.preact_size
            adjoints = tape.s.new_empty(1, tape.T, tape.B, width)
            delta_0 = sweeps.run_back(
                cell, number, tape, None if g is None else g[None], lead, adjoints=adjoints
            )
            weights = _weight_grads(cell, tape, adjoints[0], names)
        x = cell.input_grad(adjoints[0]) if want_x else None
    return Gradients(weights, x, delta_0[0])


def _weight_grads(
    cell: AbstractCell, tape: Tape, adjoints: Tensor, names: list[str]
) -> dict[str, Tensor]:
    """Give the gradients named, one GEMM each (eq. 5); only the GRU has two sides."""
    H, A = cell.hidden_size, cell.preact_size
    flat = adjoints.flatten(0, 1)
    adjoint_x = flat[:, :A]
    # GRU: the columns are (δr, δz, δn, δn ⊙ r); the hidden side is the first two and the last.
    hidden = [flat] if flat.shape[1] == A else [flat[:, : 2 * H], flat[:, A:]]
    out: dict[str, Tensor] = {}
    if "weight_ih" in names:
        out["weight_ih"] = adjoint_x.T @ tape.x.flatten(0, 1)
    if "weight_hh" in names:
        h_prev = tape.s_prev().flatten(0, 1)[:, :H]
        out["weight_hh"] = grad = flat.new_empty(A, H)
        for rows, part in zip(grad.split([p.shape[1] for p in hidden]), hidden, strict=True):
            torch.mm(part.T, h_prev, out=rows)
    if "bias_ih" in names or "bias_hh" in names:
        total = flat.sum(0)
        sides = {"bias_ih": total[:A], "bias_hh": torch.cat((total[: 2 * H], total[A:]))}
        if len(hidden) == 1:
            sides["bias_hh"] = total.clone()
        out.update({name: sides[name] for name in ("bias_ih", "bias_hh") if name in names})
    return out
