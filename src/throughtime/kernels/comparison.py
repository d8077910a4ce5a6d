"""Compare a kernel with the reference sweep, term by term."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .. import sweep as reference
from ..cells import AbstractCell
from ..errors import InputValueError
from ..tape import Tape
from .choose import use
from .verbs import backward, forward, gradients, losses

__all__ = ["Reference", "check_kernel", "term_error"]

SPANS = ("all", "prefix", "suffix")
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 1e-1}


def term_error(got: Tensor, want: Tensor) -> float:
    """Return the largest ‖got − want‖ / ‖want‖ over all terms, each a vector along the last axis.

    inf where a term that should be 0 is not, or where inf and NaN do not match.

    Example:
        >>> got = torch.tensor([[1.0, 0.0], [0.0, 1e-30]])
        >>> term_error(got, torch.tensor([[1.0, 0.0], [0.0, 2e-30]]))
        0.5
    """
    if got.shape != want.shape:
        return float("inf")
    got, want = got.double(), want.double()
    error = _finite_error(got, want)
    if math.isfinite(error):
        return error
    for test in (torch.isnan, torch.isposinf, torch.isneginf):
        if not torch.equal(test(got), test(want)):
            return float("inf")
    finite = want.isfinite()
    return _finite_error(got.where(finite, 0), want.where(finite, 0))


def _finite_error(got: Tensor, want: Tensor) -> float:
    """Return the largest error; inf or NaN where a term that should be 0 is not, or none is finite.

    What is not finite in either comes out so: most tensors need no look at each element for it.
    """
    if not want.numel():
        return 0.0
    # Scaled, so that the squares of small terms do not underflow.
    scale = want.abs().amax(-1, keepdim=True)
    zero = scale == 0
    if bool(zero.any()):
        if bool((got[zero.expand_as(got)] != 0).any()):
            return float("inf")
        scale = scale.where(~zero, 1)
    want = want / scale
    error = torch.linalg.vector_norm((got / scale).sub_(want), dim=-1)
    norm = torch.linalg.vector_norm(want, dim=-1)
    return float((error / norm.where(norm > 0, 1)).max())


class Reference:
    """A problem drawn once, with its terms from the float64 reference sweep, to judge kernels by.

    Most of a comparison's time is the reference: one object serves every instruction set and every
    number of threads.

    Args:
        cell: the recurrence, in float64.
        T: steps.
        B: batch rows.
        V: losses carried at once.
        span: "all"; "prefix" or "suffix" for ragged rows of 0 to T steps.
        resets: whether the state is zeroed at some steps.
        dtype: the kernel's dtype.
        x: inputs (T, B, I) to use instead of normal ones.
        seed: of the numbers drawn.

    Raises:
        InputValueError: ``cell`` is not in float64, or an unknown ``span``.

    Example:
        >>> cell = tt.cells.GRU(3, 5, dtype=torch.float64)
        >>> Reference(cell, T=4).check("reference")["x"]
        0.0
    """

    def __init__(
        self,
        cell: AbstractCell,
        *,
        T: int = 7,
        B: int = 3,
        V: int = 2,
        span: str = "all",
        resets: bool = False,
        dtype: torch.dtype = torch.float64,
        x: Tensor | None = None,
        seed: int = 0,
    ) -> None:
        """Draw the problem, and run the reference on it."""
        if next(iter(cell.weights().values())).dtype != torch.float64 or span not in SPANS:
            raise InputValueError(f"cell must be in float64 and span one of {SPANS}; got {span!r}.")
        draw = torch.Generator().manual_seed(seed)
        S = cell.state_size
        wide = {"generator": draw, "dtype": torch.float64, "device": "cpu"}
        x = torch.randn(T, B, cell.input_size, **wide) if x is None else x
        s_0, g = torch.randn(B, S, **wide) * 0.5, torch.randn(V, T, B, S, **wide)
        delta_T = torch.randn(V, B, S, **wide)
        active = _active(T, B, span, draw)
        reset = torch.rand(T, B, generator=draw, device="cpu") < 0.3 if resets else None
        if reset is not None and active is not None:
            reset &= active
        if dtype != torch.float64:  # the same numbers for both, so that only the arithmetic differs
            x, s_0, g, delta_T = (t.to(dtype).double() for t in (x, s_0, g, delta_T))
            cell = copy.deepcopy(cell).to(dtype).double()
        with torch.no_grad():
            self.terms = _reference(cell, x, s_0, active, reset, g, delta_T)
        self.dtype = dtype
        self.cell = copy.deepcopy(cell).to(dtype)
        x, s_0, g, delta_T = (t.to(dtype) for t in (x, s_0, g, delta_T))
        self.given = (x, s_0, active, reset, g, delta_T)

    def check(self, engine: str = "native", tolerance: float | None = None) -> dict[str, float]:
        """Run an engine's kernel, and compare it with the reference term by term.

        Args:
            engine: the engine's name, as `kernels.use` takes it.
            tolerance: the largest error relative to a term's own norm; by default 1e-10 for
                float64, 1e-5 for float32, 1e-2 for float16 and 1e-1 for bfloat16.

        Returns:
            The largest relative error of each quantity.

        Raises:
            AssertionError: an error above the tolerance, or a term that is inf, NaN or 0 in only
                one of the two.
        """
        with torch.no_grad(), use(engine), poisoned():
            got = _compiled(self.cell, *self.given)
        errors = {name: term_error(got[name], want) for name, want in self.terms.items()}
        limit = tolerance or TOLERANCES[self.dtype]
        bad = {name: error for name, error in errors.items() if not error <= limit}
        assert not bad, (
            f"{type(self.cell).__name__} {self.dtype}, {torch.get_num_threads()} threads: "
            f"relative errors above {limit}: {bad}"
        )
        return errors


def check_kernel(
    cell: AbstractCell,
    *,
    engine: str = "native",
    tolerance: float | None = None,
    **problem: Any,
) -> dict[str, float]:
    """Run an engine's kernel and the float64 reference, and compare them term by term.

    Args:
        cell: the recurrence, in float64.
        engine: the engine's name, as `kernels.use` takes it.
        tolerance: the largest error relative to a term's own norm; by default 1e-10 for float64,
            1e-5 for float32, 1e-2 for float16 and 1e-1 for bfloat16.
        **problem: T, B, V, span, resets, dtype, x and seed, as `Reference` takes them.

    Returns:
        The largest relative error of each quantity.

    Raises:
        AssertionError: an error above the tolerance, or a term that is inf, NaN or 0 in only one of
            the two.
        InputValueError: ``cell`` is not in float64, or an unknown ``span``.
    """
    return Reference(cell, **problem).check(engine, tolerance)


@contextmanager
def poisoned() -> Iterator[None]:
    """Fill all memory that torch hands out with NaN, so that an unwritten element shows."""
    # `torch.use_deterministic_algorithms` does the same, and imports torch's compiler: seconds.
    was = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("error")
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(was)


def _active(T: int, B: int, span: str, draw: torch.Generator) -> Tensor | None:
    if span == "all":
        return None
    lengths = torch.randint(0, T + 1, (B,), generator=draw, device="cpu")
    steps = torch.arange(T, device="cpu")[:, None]
    return steps < lengths if span == "prefix" else steps >= T - lengths


def _entries(V: int, T: int) -> tuple[Tensor, Tensor]:
    """Return where each loss enters, from 0 (nowhere) to T, and how far down it is followed."""
    v = torch.arange(V, device="cpu")
    enters = v * T // max(V - 1, 1)
    return enters, enters // 2 * (v % 2)


def _reference(
    cell: AbstractCell,
    x: Tensor,
    s_0: Tensor,
    active: Tensor | None,
    reset: Tensor | None,
    g: Tensor,
    delta_T: Tensor,
) -> dict[str, Tensor]:
    tape = reference.forward(cell, x, s_0, active, reset)
    # What enters at h alone, as a layer's output gives it: 0 where a row takes no step.
    shown = g[:1].clone()
    shown[..., cell.hidden_size :] = 0
    if active is not None:
        shown = shown.masked_fill(~active[..., None], 0)
    # One sweep for all: its cost is by the step, hardly by the loss.
    both = torch.cat((g, shown)), torch.cat((delta_T, delta_T[:1]))
    adjoints, delta_0 = reference.backward(cell, tape, *both)
    one, start = adjoints[-1], delta_0[-1]
    weights = cell.param_grads(tape, one)
    found = _names(tape, adjoints[:-1], delta_0[:-1], weights, cell.input_grad(one), start)
    enters, floors = _entries(*g.shape[:2])
    with use("reference"):
        dense = losses(cell, tape, g, norms=True, deltas=True)
        sparse = losses(cell, tape, g[0], enters=enters, floors=floors, adjoints=True)
    return found | _loss_names(dense, sparse)


def _compiled(
    cell: AbstractCell,
    x: Tensor,
    s_0: Tensor,
    active: Tensor | None,
    reset: Tensor | None,
    g: Tensor,
    delta_T: Tensor,
) -> dict[str, Tensor]:
    tape = forward(cell, x, s_0, active, reset)
    adjoints, delta_0 = backward(cell, tape, g, delta_T)
    grads = gradients(cell, tape, g[0, ..., : cell.hidden_size], delta_T[0])
    assert grads.x is not None
    found = _names(tape, adjoints, delta_0, grads.weights, grads.x, grads.s_0)
    enters, floors = _entries(*g.shape[:2])
    dense = losses(cell, tape, g, norms=True, deltas=True)
    sparse = losses(cell, tape, g[0], enters=enters, floors=floors, adjoints=True)
    return found | _loss_names(dense, sparse)


def _names(
    tape: Tape, adjoints: Tensor, delta_0: Tensor, weights: dict, grad_x: Tensor, start: Tensor
) -> dict[str, Tensor]:
    """Name what is compared; a weight's gradient is one term."""
    takes = torch.ones_like(tape.s[1:, :, 0], dtype=torch.bool)
    takes = takes if tape.active is None else tape.active
    # What is saved of a step that a row does not take means nothing.
    saved = {f"saved{i}": t.where(takes[..., None], 0) for i, t in enumerate(tape.saved)}
    terms = {"s": tape.s, **saved, "adjoints": adjoints, "delta_0": delta_0}
    terms |= {"x": grad_x, "s_0": start}
    return terms | {name: grad.flatten() for name, grad in weights.items()}


def _loss_names(dense, sparse) -> dict[str, Tensor]:
    return {
        "norms": dense.norms[..., None],
        "deltas": dense.deltas,
        "sparse norms": sparse.norms[..., None],
        "sparse adjoints": sparse.adjoints,
        "sparse s_0": sparse.s_0,
    }
