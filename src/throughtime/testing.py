"""Checks for anyone's own cell: every derivative against autograd, in float64, term by term."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor

from . import sweep
from .cells.base import AbstractCell, rebind
from .cells.computed import with_computed_weights
from .cells.factors import Factors
from .compare import assert_close
from .errors import CheckError, InputTypeError, InputValueError, ThroughTimeError
from .kernels.comparison import check_kernel
from .shapes import check_sizes
from .tape import Tape

__all__ = ["assert_close", "check_cell", "check_kernel"]

SIZES = ("input_size", "hidden_size", "state_size", "preact_size")


def check_cell(cell: AbstractCell, *, T: int = 6, B: int = 3, rtol: float = 1e-8) -> None:
    """Compare every derivative of a cell with autograd, in float64 (eq. 1, 4, 5, 9).

    `vjp` and `jacobian` are compared at one step; `param_grads`, `input_grad` and dE/ds_0 over T
    steps with rows of different lengths and resets, against an unrolled autograd graph. It also
    looks whether shapes are right, rows and steps independent, two calls alike, and arguments left
    as they were. What a `torch.autograd.Function` within the step says of its own derivative is
    taken at its word, since a surrogate gradient is meant: `torch.autograd.gradcheck` doubts it.

    Args:
        cell: the cell; a copy in float64 is checked.
        T: how many steps.
        B: how many rows.
        rtol: allowed error, relative to each term's own norm.

    Raises:
        CheckError: something is wrong; the message says which derivative, and at which entry.
        InputTypeError: ``cell`` is no cell, or T or B no integer.
        InputValueError: T or B below 1, or ``rtol`` outside 0…1.

    Example:
        >>> from throughtime.cells import GRU
        >>> check_cell(GRU(3, 5))
    """
    if not isinstance(cell, AbstractCell):
        raise InputTypeError(f"cell must be an AbstractCell; got {type(cell).__name__}.")
    missing = [size for size in SIZES if not isinstance(getattr(cell, size, None), int)]
    if missing:
        raise CheckError(
            f"{type(cell).__name__} has no {', '.join(missing)}; set {', '.join(SIZES)} (I, H, S, "
            "A) in its constructor, as integers."
        )
    check_sizes(T=T, B=B)
    if not 0 <= rtol < 1:
        raise InputValueError(f"rtol must lie between 0 and 1; got {rtol}.")
    cell = with_computed_weights(cell)
    cell = rebind(cell, {name: weight.detach() for name, weight in cell.weights().items()})
    cell = copy.deepcopy(cell).double()
    cell = rebind(cell, {name: w.requires_grad_() for name, w in cell.weights().items()})
    generator = torch.Generator().manual_seed(0)
    device = next((w.device for w in cell.weights().values()), torch.device("cpu"))

    def draw(*shape: int) -> Tensor:
        drawn = torch.randn(*shape, generator=generator, dtype=torch.float64, device="cpu")
        return drawn.to(device)

    x, s_0 = draw(T, B, cell.input_size), draw(B, cell.state_size)
    _check_step(cell, x, s_0)
    _check_captured(cell, x, s_0)
    _check_affine(cell, x, s_0, rtol)
    _check_vjp(cell, x, s_0, draw(4, B, cell.state_size), rtol)
    _check_factors(cell, x, s_0, draw(4, B, cell.state_size), rtol)
    _check_sweep(cell, x, s_0, draw, rtol)


def _call(cell: AbstractCell, method: str, *args):
    """Call a method of the cell; an error in it is reported with the shapes that it was given."""
    try:
        return getattr(cell, method)(*args)
    except ThroughTimeError:
        raise
    except Exception as error:
        given = ", ".join(str(tuple(a.shape)) for a in args if isinstance(a, Tensor))
        hint = ""
        if "dtype" in str(error):
            hint = " (A copy in float64 is checked; only weights and buffers follow.)"
        raise CheckError(
            f"{type(cell).__name__}.{method} raises {type(error).__name__} for {given}: {error}"
            f"{hint}"
        ) from error


def _check_drive(cell: AbstractCell, x: Tensor) -> Tensor:
    """Check shape and dtype of a_t, and that each step and row has its own."""
    name = f"{type(cell).__name__}.drive"
    a = _call(cell, "drive", x)
    _expect(f"{name}(x)", a, (*x.shape[:2], cell.preact_size))
    for what, part, want in (("step", x[-1:], a[-1:]), ("row", x[:, -1:], a[:, -1:])):
        got = _call(cell, "drive", part)
        assert_close(got, want, rtol=1e-12, name=f"{name} of one {what} alone (it mixes {what}s)")
    return a


def _step(cell: AbstractCell, a_t: Tensor, s_prev: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Take a step, and check the form of what it returns."""
    name = f"{type(cell).__name__}.step"
    out = _call(cell, "step", a_t, s_prev)
    if not (isinstance(out, tuple) and len(out) == 2 and isinstance(out[1], tuple)):
        raise CheckError(f"{name} must return s_t and a tuple of tensors; got {_form(out)}.")
    s_t, saved = out
    _expect(f"{name}: s_t", s_t, tuple(s_prev.shape))
    for at, kept in enumerate(saved):
        if not isinstance(kept, Tensor) or kept.dim() < 1 or len(kept) != len(s_prev):
            raise CheckError(
                f"{name}: saved[{at}] must be a tensor ({len(s_prev)}, ·), a row for each of the "
                f"batch's; got {_form(kept)}. What is no tensor can be an attribute of the cell."
            )
    return s_t, saved


def _check_step(cell: AbstractCell, x: Tensor, s_0: Tensor) -> None:
    """Check shapes, purity and the independence of rows."""
    name = f"{type(cell).__name__}.step"
    with torch.no_grad():
        a_1 = _check_drive(cell, x)[0]
        a_before, s_before = a_1.clone(), s_0.clone()
        s_1, _ = _step(cell, a_1, s_0)
        s_1 = s_1.clone()
        if not s_1.isfinite().all():
            bad = (~s_1.isfinite()).nonzero()[0].tolist()
            raise CheckError(
                f"{name} gives {float(s_1[tuple(bad)]):g} at entry {bad} (row, state) for an input "
                "and a state drawn from N(0, 1), so that nothing can be compared. Look at "
                "logarithms, roots and quotients in it."
            )
        if not torch.equal(a_1, a_before) or not torch.equal(s_0, s_before):
            raise CheckError(f"{name} writes into its arguments; it must leave them alone.")
        again, _ = _step(cell, a_1, s_0)
        if not torch.equal(again, s_1):
            at = [int(i) for i in torch.unravel_index((again - s_1).abs().argmax(), s_1.shape)]
            raise CheckError(
                f"{name} gives another state when called again with the same (is it random?): at "
                f"entry {at} first {float(s_1[tuple(at)]):.6g}, then {float(again[tuple(at)]):.6g}."
            )
        a_other, s_other = a_1.clone(), s_0.clone()
        a_other[1:] += 1
        s_other[1:] -= 1
        with_others, _ = _step(cell, a_other, s_other)
        assert_close(
            with_others[:1],
            s_1[:1],
            rtol=1e-12,
            name=f"{name}: row 0 beside other rows (rows must be independent: no batch norm)",
        )
        alone, _ = _step(cell, a_1[:1], s_0[:1])
        assert_close(alone, s_1[:1], rtol=1e-12, name=f"{name} on one row of the batch alone")


def _check_captured(cell: AbstractCell, x: Tensor, s_0: Tensor) -> None:
    """Check that all that requires grad is among the weights, or its gradient is lost."""
    frozen = rebind(cell, {name: w.detach() for name, w in cell.weights().items()})
    with torch.enable_grad():
        a = frozen.drive(x)
        s_t, _ = _step(frozen, a[0].detach(), s_0)
    for method, out in (("drive", a), ("step", s_t)):
        if out.requires_grad:
            raise CheckError(
                f"{type(cell).__name__}.{method} uses a tensor that requires grad and is not in "
                "weights(), so its gradient would be lost. Make it a Parameter of the cell; for a "
                "Function pass it in weights={name: tensor}."
            )


def _check_affine(cell: AbstractCell, x: Tensor, s_0: Tensor, rtol: float) -> None:
    """Compare d ⊙ s + u with the step, if the cell has that form."""
    if type(cell).affine is AbstractCell.affine:
        return
    name, (T, B) = type(cell).__name__, x.shape[:2]
    with torch.no_grad():
        a = cell.drive(x)
        out = _call(cell, "affine", a)
        if not (isinstance(out, tuple) and len(out) == 2):
            raise CheckError(f"{name}.affine must return d and u; got {_form(out)}.")
        for what, tensor in zip("du", out, strict=True):
            _expect(f"{name}.affine: {what}", tensor, (T, B, cell.state_size))
        for s_prev in (s_0, 3 * s_0 + 1):
            got = out[0][0] * s_prev + out[1][0]
            want = cell.step(a[0], s_prev)[0]
            assert_close(got, want, rtol=rtol, name=f"{name}.affine: d ⊙ s_prev + u beside step")


def _check_factors(cell: AbstractCell, x: Tensor, s_0: Tensor, delta: Tensor, rtol: float) -> None:
    """Compare a step back by the cell's factors with `vjp`, if it states them."""
    if not cell.has_factors:
        return
    with torch.no_grad():
        tape = sweep.forward(cell, x, s_0)
        factors = _call(cell, "factors", tape)
        if not isinstance(factors, Factors):
            raise CheckError(
                f"{type(cell).__name__}.factors must return Factors; got {_form(factors)}. Let "
                "has_factors be False where there are none."
            )
        got, want = factors.back(len(x), delta), cell.vjp(tape.at(len(x)), delta)
        for what, a, b in zip(("J_tᵀ delta", "the adjoint"), got, want, strict=True):
            name = f"{type(cell).__name__}.factors: {what} beside vjp"
            assert_close(a, b, rtol=rtol, name=name)


def _check_vjp(cell: AbstractCell, x: Tensor, s_0: Tensor, delta: Tensor, rtol: float) -> None:
    """Compare one step back with autograd's, and the Jacobian with its rows."""
    name = type(cell).__name__
    a_t = cell.drive(x)[0].detach().requires_grad_()
    s_prev = s_0.clone().requires_grad_()
    s_t, _ = _step(cell, a_t, s_prev)
    if not s_t.requires_grad:
        raise CheckError(
            f"{name}.step: s_t is cut off from a_t and s_prev, so that nothing can be compared; "
            "make it of differentiable torch operations, without detach() or numpy."
        )
    with torch.no_grad():
        saved = cell.step(a_t.detach(), s_0)[1]
        before = [kept.clone() for kept in (*saved, delta)]
        out = _call(cell, "vjp", saved, delta)
        if not (isinstance(out, tuple) and [type(o) for o in out] == [Tensor, Tensor]):
            raise CheckError(
                f"{name}.vjp must return delta_prev and the adjoint; got {_form(out)}."
            )
        delta_prev, adjoint = out
        if not all(map(torch.equal, (*saved, delta), before)):
            raise CheckError(f"{name}.vjp writes into saved or delta; it must leave them alone.")
        jacobian = _call(cell, "jacobian", saved)
    _expect(f"{name}.vjp: delta_prev", delta_prev, tuple(delta.shape))
    if adjoint.shape[:-1] != delta.shape[:2] or adjoint.shape[-1] < cell.preact_size:
        raise CheckError(
            f"{name}.vjp: the adjoint has shape {tuple(adjoint.shape)}, should be "
            f"{(*delta.shape[:2], cell.preact_size)} or wider."
        )
    for v in range(delta.shape[0]):
        want_a, want_s = torch.autograd.grad(
            s_t, (a_t, s_prev), delta[v], retain_graph=True, materialize_grads=True
        )
        assert_close(
            adjoint[v, :, : cell.preact_size],
            want_a,
            rtol=rtol,
            name=f"{name}.vjp: adjoint dE/da_t (row, pre-activation)",
        )
        what = f"{name}.vjp: J_tᵀ delta (row, state), dE/da_t being right"
        assert_close(delta_prev[v], want_s, rtol=rtol, name=what)
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
    lengths = torch.arange(T, T - B, -1, device=x.device).clamp(min=1)
    active = torch.arange(T, device=x.device)[:, None] < lengths
    reset = torch.zeros(T, B, dtype=torch.bool, device=x.device)
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
        grads = _call(cell, "param_grads", tape, adjoints[0])
        got_x = _call(cell, "input_grad", adjoints)
        each = [
            _call(cell, "param_grads", tape.steps(k, k), adjoints[0, k - 1 : k])
            for k in range(1, T + 1)
        ]
    _expect_names(name, grads, weights)
    _expect(f"{name}.input_grad of adjoints (V, T, B, A)", got_x, (1, *x.shape))
    assert_close(delta_0[0], want_s0, rtol=rtol, name=f"{name}: dE/ds_0 over {T} steps")
    assert_close(got_x[0], want_x, rtol=rtol, name=f"{name}.input_grad (step, row, input)")
    for (weight, _), grad in zip(weights.items(), want, strict=True):
        what = f"{name}.param_grads: dE/d({weight})"
        if not grad.any() and grads[weight].any():
            raise CheckError(
                f"{what} must be 0 everywhere, since neither drive nor step uses {weight}; got "
                f"{float(grads[weight].abs().max()):.6g} at most. Was it forgotten there?"
            )
        try:
            assert_close(grads[weight], grad, rtol=rtol, name=what)
        except CheckError as error:
            raise CheckError(f"{error}{_only_resets(cell, tape, weight, rtol)}") from None
        summed = torch.stack([by_name[weight] for by_name in each]).sum(0)
        assert_close(summed, grad, rtol=rtol, name=f"{what}, steps taken one by one and summed")


def _only_resets(cell: AbstractCell, tape: Tape, weight: str, rtol: float) -> str:
    """Check whether a wrong weight gradient is right where no state is reset."""
    x, s_0 = tape.x.detach(), tape.s[0]
    h, _ = sweep.unroll(cell, x, s_0)
    (want,) = torch.autograd.grad(h.sum(), cell.weights()[weight])
    with torch.no_grad():
        whole = sweep.forward(cell, x, s_0)
        adjoints, _ = sweep.backward(cell, whole, torch.ones_like(h)[None])
        got = cell.param_grads(whole, adjoints[0])[weight]
    if got.shape == want.shape and (got - want).norm() <= rtol * want.norm():
        return (
            " Without resets and rows that end early it is right: the state that a step begins "
            "from is tape.s_prev(), 0 after a reset."
        )
    return ""


def _form(thing: object) -> str:
    """Describe what something is, for a message."""
    if isinstance(thing, Tensor):
        return f"a tensor {tuple(thing.shape)}"
    if isinstance(thing, tuple):
        return f"({', '.join(map(_form, thing))})"
    return f"{type(thing).__name__}"


def _expect(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if not isinstance(tensor, Tensor) or tuple(tensor.shape) != shape:
        raise CheckError(f"{name} must be a tensor {shape}; got {_form(tensor)}.")
    if tensor.dtype != torch.float64:
        raise CheckError(
            f"{name} must keep the dtype float64 of weights and state; got {tensor.dtype}."
        )


def _expect_names(name: str, grads: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    if set(grads) != set(weights):
        raise CheckError(
            f"{name}.param_grads gives {sorted(grads)}, should give {sorted(weights)}."
        )
