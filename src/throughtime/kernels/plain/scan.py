"""The two sweeps of a cell whose step is s_t = d ⊙ s_{t-1} + u: one scan forward, one back."""

from __future__ import annotations

from math import isqrt

import torch
from torch import Tensor

from ...cells import AbstractCell
from ...norms import vector_norm
from ...tape import Tape
from ..engine import Losses

__all__ = ["backward", "forward", "losses"]

# With fewer numbers per step than this, calls cost more than the arithmetic, so fewer are better.
NARROW = 1024
PART_BYTES = 1 << 19


def forward(
    cell: AbstractCell,
    x: Tensor,
    s_0: Tensor,
    active: Tensor | None = None,
    reset: Tensor | None = None,
    *,
    keep: bool = True,
) -> Tape:
    """Run the recurrence over all steps and keep the tape (eq. 1), as `sweep.forward` does.

    Args:
        cell: the recurrence, which has `affine`.
        x: inputs (T, B, I).
        s_0: the initial state (B, S).
        active: (T, B) bool; rows that are False keep their state.
        reset: (T, B) bool; where True the state is zeroed before the step.
        keep: whether the backward pass will be taken; without it the tape holds only the states.

    Cost:
        one GEMM for all inputs, and one multiplication and addition per state.

    Example:
        >>> from throughtime.cells import MinGRU
        >>> forward(MinGRU(3, 5), torch.zeros(7, 2, 3), torch.zeros(2, 5)).s.shape
        torch.Size([8, 2, 5])
    """
    T, B = x.shape[:2]
    kept: tuple[Tensor, ...] = ()
    with torch.no_grad():
        s = s_0.new_empty(T + 1, *s_0.shape)
        s[0] = s_0
        tape = Tape(x, s, (), active, reset)
        for first, last in _parts(T, s[0].nbytes):
            part = tape.steps(first + 1, last)
            a = cell.drive(part.x)
            d, u = cell.affine(a)
            part.s[1:] = _where(part.active, u, 0)
            d = _where(part.active, d, 1)
            scan_(part.s, d, part.reset)
            if not keep:
                continue
            # One step over all rows shows what it saves; its states are known already.
            before = part.s_prev().flatten(0, 1)
            again, saved = cell.step(a.flatten(0, 1), before)
            whole = {id(again): s[1:]}
            if reset is None:
                whole[id(before)] = s[:-1]
            if first == 0:
                kept = tuple(
                    whole[id(k)] if id(k) in whole else k.new_empty(T, B, *k.shape[1:])
                    for k in saved
                )
            for buffer, k in zip(kept, saved, strict=True):
                if id(k) not in whole:
                    buffer[first:last].view_as(k).copy_(k)
    return Tape(x, s, kept, active, reset)


def backward(
    cell: AbstractCell, tape: Tape, g: Tensor, delta_T: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Send V losses back through all steps (eq. 9), as `sweep.backward` does.

    Args:
        cell: the recurrence, which has `affine`.
        tape: what its forward sweep kept.
        g: direct gradients (V, T, B, G) into the first G ≤ S entries of s_1…s_T.
        delta_T: what else arrives at s_T, (V, B, S).

    Returns:
        The adjoints (V, T, B, A), and dE/ds_0 (V, B, S).

    Cost:
        one multiplication and addition per state and loss, then `vjp` over all rows at once.
    """
    with torch.no_grad():
        deltas, adjoint = _back(cell, tape, g, delta_T)
    return adjoint, deltas[:, 0]


def losses(cell: AbstractCell, tape: Tape, g: Tensor, *, norms: bool, adjoints: bool) -> Losses:
    """Send V losses back through all steps by one scan, and keep every vector (eq. 9).

    Args:
        cell: the recurrence, which has `affine`.
        tape: what its forward sweep kept.
        g: direct gradients (V, T, B, G).
        norms: whether ‖∂E_v/∂s_k‖₂ is wanted.
        adjoints: whether the adjoints are wanted.
    """
    deltas, adjoint = _back(cell, tape, g, None)
    return Losses(
        vector_norm(deltas) if norms else None, deltas, adjoint if adjoints else None, deltas[:, 0]
    )


def _back(
    cell: AbstractCell, tape: Tape, g: Tensor, delta_T: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return delta_0…delta_T (V, T+1, B, S) and the adjoints of all steps (V, T, B, A)."""
    V, T, B, G = g.shape
    S = cell.state_size
    deltas = g.new_zeros(T + 1, V, B, S)
    deltas[1:, ..., :G] = g.transpose(0, 1)
    if delta_T is not None:
        deltas[T] += delta_T
    out: Tensor | None = None
    for first, last in reversed(_parts(T, deltas[0].nbytes)):
        part, here = tape.steps(first + 1, last), deltas[first : last + 1]
        rows = tuple(kept.flatten(0, 1) for kept in part.saved)
        # J_t is diagonal, so J_tᵀ 1 is its diagonal.
        d = cell.vjp(rows, rows[0].new_ones(1, len(rows[0]), S))[0].view(-1, B, S)
        d = _where(part.active, d, 1)
        scan_(here, d[:, None], None if part.reset is None else part.reset[:, None], back=True)
        enters = here[1:].transpose(0, 1).reshape(V, len(rows[0]), S)
        adjoint = cell.vjp(rows, enters)[1].unflatten(1, (last - first, B))
        adjoint = _where(part.active, adjoint, 0)
        if out is None:
            out = adjoint.new_empty(V, T, B, adjoint.shape[-1])
        out[:, first:last] = adjoint
    assert out is not None
    return deltas.transpose(0, 1), out


def _parts(T: int, step_bytes: int) -> list[tuple[int, int]]:
    """Cut the steps into parts that stay in cache from one operation to the next."""
    K = max(1, PART_BYTES // max(1, step_bytes))
    return [(first, min(first + K, T)) for first in range(0, T, K)]


def _where(active: Tensor | None, taken: Tensor, otherwise: float) -> Tensor:
    """Return ``otherwise`` where a row takes no step: d = 1 and u = 0 leave its state as it is."""
    return taken if active is None else torch.where(active[..., None], taken, otherwise)


def scan_(s: Tensor, d: Tensor, cut: Tensor | None = None, *, back: bool = False) -> None:
    """Add d_t ⊙ s_{t-1} to s_t, for t = 1…T in turn; ``back``: d_{t+1} ⊙ s_{t+1}, from T−1 to 0.

    It never divides by a product of d, which could underflow.

    Args:
        s: (T+1, …, B, S), written to.
        d: (T, …, B, S); ``d[t-1]`` is d_t.
        cut: (T, …, B), True where nothing passes, not even NaN.
        back: whether to go from T−1 to 0.
    """
    if cut is None and s[0].numel() < NARROW and len(d) > 3:
        if not back:
            _in_pieces_(s, d)
            return
        turned = s.flip(0)
        _in_pieces_(turned, d.flip(0))
        s.copy_(turned.flip(0))
        return
    states, factors = list(s.unbind(0)), list(d.unbind(0))
    cuts = None if cut is None else list(cut[..., None].unbind(0))
    if back:
        states.reverse()
        factors.reverse()
        if cuts is not None:
            cuts.reverse()
    for t, factor in enumerate(factors):
        before = states[t] if cuts is None else states[t].masked_fill(cuts[t], 0)
        states[t + 1].addcmul_(factor, before)


def _in_pieces_(s: Tensor, d: Tensor) -> None:
    """Scan √T pieces of √T steps side by side, then join them: 3√T calls instead of T."""
    T = len(d)
    K = isqrt(T)
    n = T // K
    first, own = s[0].clone(), s[1 : n * K + 1].unflatten(0, (n, K))
    products = d[: n * K].unflatten(0, (n, K)).clone()
    for k in range(1, K):
        own[:, k].addcmul_(products[:, k], own[:, k - 1])
        products[:, k] *= products[:, k - 1]
    carried = s.new_empty(n, *s.shape[1:])
    for piece in range(n):
        carried[piece] = first
        first = torch.addcmul(own[piece, -1], products[piece, -1], first)
    own.addcmul_(products, carried[:, None])
    for t in range(n * K, T):
        s[t + 1].addcmul_(d[t], s[t])
