"""Checks for anyone's own cell: every derivative against autograd, in float64, term by term."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor

from . import sweep
from .cells.base import AbstractCell
from .errors import CheckError, InputTypeError

__all__ = ["assert_close", "check_cell"]


def assert_close(got: Tensor, want: Tensor, *, rtol: float = 1e-10, name: str = "value") -> None:
    """Raise unless ``got`` is ``want`` up to ``rtol`` of ``want``'s own norm.

    There is no absolute tolerance: it would let all zeros pass for a vanished gradient. Where
    ``want`` is exactly 0, ``got`` must be too; anything non-finite fails.

    Args:
        got: what was computed.
        want: what it should be.
        rtol: ‖got − want‖ / ‖want‖ that is let pass.
        name: what it is, for the message.

    Raises:
        CheckError: it is not; the message names the entry that is farthest off.

    Example:
        >>> assert_close(torch.ones(2), torch.ones(2))
    """
    if got.shape != want.shape:
        raise CheckError(f"{name}: shape {tuple(got.shape)}, should be {tuple(want.shape)}.")
    got, want = got.detach().double(), want.detach().double()
    if not got.isfinite().all() or not want.isfinite().all():
        bad = (~got.isfinite() | ~want.isfinite()).nonzero()[0].tolist()
        raise CheckError(f"{name}: not finite at {bad}: got {got[tuple(bad)]:g}.")
    if want.numel() == 0:
        return
    scale = want.abs().max()
    error = (got - want).abs()
    if scale == 0:
        off = float(error.max())
    else:
        off = float((error / scale).norm() / (want / scale).norm())
    if off > (rtol if scale > 0 else 0):
        at = tuple(torch.unravel_index(error.argmax(), error.shape))
        where = [int(i) for i in at]
        raise CheckError(
            f"{name}: off by {off:.2e} of its norm (allowed {rtol:.0e}), most at entry {where}: "
            f"got {float(got[at]):.6g}, should be {float(want[at]):.6g}."
        )


def check_cell(cell: AbstractCell, *, T: int = 6, B: int = 3, rtol: float = 1e-8) -> None:
    """Compare every derivative of a cell with autograd, in float64 (eq. 1, 4, 5, 9).

    `vjp` and `jacobian` are compared at one step; `param_grads`, `input_grad` and dE/ds_0 over T
    steps with rows of different lengths and resets, against an unrolled autograd graph. It also
    looks whether shapes are right, rows independent, and arguments left as they were.

    Args:
        cell: the cell; a copy in float64 is checked.
        T: how many steps.
        B: how many rows.
        rtol: allowed error, relative to each term's own norm.

    Raises:
        CheckError: something is wrong; the message says which derivative, and at which entry.
        InputTypeError: ``cell`` is no cell.

    Example:
        >>> from throughtime.cells import GRU
        >>> check_cell(GRU(3, 5))
    """
    if not isinstance(cell, AbstractCell):
        raise InputTypeError(f"cell must be an AbstractCell; got {type(cell).__name__}.")
    cell = copy.deepcopy(cell).double()
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x, s_0 = draw(T, B, cell.input_size), draw(B, cell.state_size)
    _check_step(cell, x, s_0)
    _check_vjp(cell, x, s_0, draw(4, B, cell.state_size), rtol)
    _check_sweep(cell, x, s_0, draw, rtol)


def _check_step(cell: AbstractCell, x: Tensor, s_0: Tensor) -> None:
    """Look at shapes, purity and the independence of rows."""
    name = type(cell).__name__
    with torch.no_grad():
        a = cell.drive(x)
        _expect_shape(f"{name}.drive(x)", a, (*x.shape[:2], cell.preact_size))
        a_before, s_before = a[0].clone(), s_0.clone()
        s_1, _ = cell.step(a[0], s_0)
        _expect_shape(f"{name}.step: s_t", s_1, tuple(s_0.shape))
        if not torch.equal(a[0], a_before) or not torch.equal(s_0, s_before):
            raise CheckError(f"{name}.step writes into its arguments; it must leave them alone.")
        alone, _ = cell.step(a[0, :1], s_0[:1])
        assert_close(alone, s_1[:1], rtol=1e-12, name=f"{name}.step on one row of the batch alone")


def _check_vjp(cell: AbstractCell, x: Tensor, s_0: Tensor, delta: Tensor, rtol: float) -> None:
    """Compare one step back with autograd's, and the Jacobian with its rows."""
    name = type(cell).__name__
    a_t = cell.drive(x)[0].detach().requires_grad_()
    s_prev = s_0.clone().requires_grad_()
    s_t, _ = cell.step(a_t, s_prev)
    with torch.no_grad():
        saved = cell.step(a_t.detach(), s_0)[1]
        delta_prev, adjoint = cell.vjp(saved, delta)
        jacobian = cell.jacobian(saved)
    _expect_shape(f"{name}.vjp: delta_prev", delta_prev, tuple(delta.shape))
    if adjoint.shape[:2] != delta.shape[:2] or adjoint.shape[2] < cell.preact_size:
        raise CheckError(
            f"{name}.vjp: the adjoint has shape {tuple(adjoint.shape)}, should be "
            f"{(*delta.shape[:2], cell.preact_size)} or wider."
        )
    for v in range(delta.shape[0]):
        want_a, want_s = torch.autograd.grad(
            s_t, (a_t, s_prev), delta[v], retain_graph=True, materialize_grads=True
        )
        assert_close(delta_prev[v], want_s, rtol=rtol, name=f"{name}.vjp: J_tᵀ delta (row, state)")
        assert_close(
            adjoint[v, :, : cell.preact_size],
            want_a,
            rtol=rtol,
            name=f"{name}.vjp: adjoint dE/da_t (row, pre-activation)",
        )
    rows = [
        torch.autograd.grad(s_t[:, i].sum(), s_prev, retain_graph=True, materialize_grads=True)[0]
        for i in range(cell.state_size)
    ]
    assert_close(
        jacobian, torch.stack(rows, 1), rtol=rtol, name=f"{name}.jacobian (row, ∂s_t, ∂s_{{t−1}})"
    )


def _check_sweep(cell: AbstractCell, x: Tensor, s_0: Tensor, draw, rtol: float) -> None:
    """Compare all gradients over T steps with those of an unrolled autograd graph."""
    name = type(cell).__name__
    T, B = x.shape[:2]
    lengths = torch.arange(T, T - B, -1).clamp(min=1)
    active = torch.arange(T)[:, None] < lengths
    reset = torch.zeros(T, B, dtype=torch.bool)
    reset[T // 2, 0] = True
    x = x.masked_fill(~active[..., None], 0).requires_grad_()
    s_0 = s_0.clone().requires_grad_()
    weights = cell.weights()
    h, s_T = sweep.unroll(cell, x, s_0, active, reset)
    g, g_T = draw(*h.shape) * active[..., None], draw(*s_T.shape)
    want_x, want_s0, *want = torch.autograd.grad(
        (h, s_T), (x, s_0, *weights.values()), (g, g_T), materialize_grads=True
    )
    with torch.no_grad():
        tape = sweep.forward(cell, x, s_0, active, reset)
        adjoints, delta_0 = sweep.backward(cell, tape, g[None], g_T[None])
        grads = cell.param_grads(tape, adjoints[0])
        got_x = cell.input_grad(adjoints[0])
    _expect_names(name, grads, weights)
    assert_close(delta_0[0], want_s0, rtol=rtol, name=f"{name}: dE/ds_0 over {T} steps")
    assert_close(got_x, want_x, rtol=rtol, name=f"{name}.input_grad (step, row, input)")
    for (weight, _), grad in zip(weights.items(), want, strict=True):
        assert_close(grads[weight], grad, rtol=rtol, name=f"{name}.param_grads: dE/d({weight})")


def _expect_shape(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise CheckError(f"{name} has shape {tuple(tensor.shape)}, should be {shape}.")


def _expect_names(name: str, grads: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    if set(grads) != set(weights):
        raise CheckError(
            f"{name}.param_grads gives {sorted(grads)}, should give {sorted(weights)}."
        )
