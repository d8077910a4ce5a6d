"""Jacobians of the recurrence, their products, singular values and Lyapunov exponents."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..cells.base import AbstractCell
from ..cells.probes import alike
from ..errors import UnsupportedError
from ..kernels.choose import choose_back
from ..tape import Tape

__all__ = ["alike", "exponents", "jacobian_product", "lyapunov", "singular_values", "steps_taken"]


NO_JACOBIAN = "has no Jacobian of each row by itself"


def jacobian_product(cell: AbstractCell, tape: Tape, to: int, since: int) -> Tensor:
    """Return ∂s_to/∂s_since = J_to ⋯ J_{since+1}, (B, S, S), by sending the identity back (eq. 4).

    Cost:
        (to − since) steps of S·B rows.

    Raises:
        UnsupportedError: rows depend on each other, or a complex step is not holomorphic.
    """
    S, B, tape = cell.state_size, tape.B, tape.steps(since + 1, to)
    identity = torch.eye(S, dtype=tape.s.dtype, device=tape.s.device)
    if to == since:
        return identity.expand(B, S, S).clone()
    cell.need_rows_apart(NO_JACOBIAN, "ask for batches of one row", tape)
    if tape.s.is_complex():
        identity = torch.cat((identity, 1j * identity))
    delta = identity[:, None, :].expand(len(identity), B, S).contiguous()
    nothing = delta.new_zeros(1).expand(len(identity), tape.T, B, 1)
    product = choose_back(cell, tape, nothing, delta).backward(cell, tape, nothing, delta)[1]
    if not tape.s.is_complex():
        return product.transpose(0, 1).contiguous()
    product, turned = product.chunk(2)
    if not alike(turned, 1j * product):
        raise UnsupportedError(
            "the step is no holomorphic function of its complex state (it takes conj, abs, real or "
            "imag of it), so there is no Jacobian of S × S numbers. Give the state as real "
            "numbers: torch.view_as_real."
        )
    # Autograd sends gradients back by the conjugate of J_tᵀ.
    return product.conj().transpose(0, 1).resolve_conj().contiguous()


def singular_values(jacobian: Tensor) -> Tensor:
    """Return the singular values, largest first: (B, S, S) → (B, S); NaN where it is not finite."""
    finite = jacobian.isfinite().flatten(1).all(1)
    values = torch.linalg.svdvals(torch.where(finite[:, None, None], jacobian, 0).double())
    return torch.where(finite[:, None], values, torch.nan)


def _wide(x: Tensor) -> Tensor:
    """Return half precision as float32: linear algebra knows nothing smaller."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def steps_taken(tape: Tape) -> Tensor:
    """Return (T, B) bool: the steps that a row takes from a state it had before."""
    taken = torch.ones(tape.T, tape.B, dtype=torch.bool, device=tape.s.device)
    if tape.active is not None:
        taken = taken & tape.active
    return taken if tape.reset is None else taken & ~tape.reset


def lyapunov(cell: AbstractCell, tape: Tape, n: int, since: int) -> Tensor:
    """Return the n largest Lyapunov exponents in nats per step, (B, n), by QR (eq. 9).

    The adjoint recursion delta_{t−1} = J_tᵀ delta_t (eq. 9) is re-orthonormalised at every step;
    the mean logarithms of R's diagonal are the exponents. With n = S their sum is exactly the
    mean of ln|det J_t|.
    """
    cell.need_rows_apart(NO_JACOBIAN, "ask for batches of one row", tape)

    def back(t: int, q: Tensor) -> Tensor:
        return cell.vjp(tape.at(t), q)[0]

    return exponents(tape.s, n, tape.T, since, steps_taken(tape), back)


def exponents(
    like: Tensor,
    n: int,
    T: int,
    since: int,
    taken: Tensor,
    back: Callable[[int, Tensor], Tensor],
) -> Tensor:
    """Return the n largest Lyapunov exponents of steps since+1…T, (B, n), largest first.

    Args:
        like: states (T+1, B, S).
        n: how many.
        T: the last step.
        since: the step before the first that counts.
        taken: (T, B), the steps that each row takes.
        back: sends vectors (n, B, S) at step t to the step before (eq. 9).
    """
    _, B, S = like.shape
    if n == S:
        start = torch.eye(S, dtype=like.dtype, device=like.device)
    else:
        draw = torch.Generator().manual_seed(0)
        noise = torch.randn(S, n, generator=draw, dtype=torch.float64, device="cpu")
        start = torch.linalg.qr(noise)[0].to(like)
    q = start.T[:, None, :].expand(n, B, S).contiguous()
    logs = torch.zeros(B, n, dtype=torch.float64, device=like.device)
    for t in range(T, since, -1):
        orthonormal, r = torch.linalg.qr(_wide(back(t, q)).permute(1, 2, 0))
        orthonormal = orthonormal.to(like)
        takes = taken[t - 1, :, None]
        growth = r.diagonal(dim1=1, dim2=2).abs().double().log()
        logs += torch.where(takes, growth, 0)
        q = torch.where(takes, orthonormal.permute(2, 0, 1), q)
    found = logs / taken[since:].sum(0)[:, None]
    return found.sort(1, descending=True).values
