"""Testing a step function: whether it keeps rows apart, looks at values, and repeats itself.

A step is known only by what it does. It is tried on made-up rows before anything rests on it, and
what was computed for many steps or rows at once is compared with single steps, so that the gradient
of another function never passes for the step's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ..errors import GraphError, InputValueError, NonFiniteError
from .base import rebind

if TYPE_CHECKING:
    from ..tape import Tape
    from .function import Function

__all__ = [
    "DEPENDS",
    "LooksAtValues",
    "alike",
    "check_finite",
    "check_graph",
    "check_repeats",
    "mixes_rows",
    "mixes_steps",
    "own_rows",
    "sampled_steps",
    "why_apart",
]

DEPENDS = "a row's state depends on the other rows of the batch"
# Means and sizes of the made-up rows, and how many of each: a dependence may show only far from
# s = 0, on one side of it, or in few rows.
MADE_UP = ((0.0, 1.0), (0.0, 10.0), (10.0, 1.0), (-10.0, 1.0))
MADE_UP_ROWS = 16
_VALUES_MATTER = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


class LooksAtValues(TorchDispatchMode):
    """Notice whether what runs inside reads a tensor's values, as a branch on them does."""

    def __init__(self) -> None:
        """Begin without having seen any."""
        super().__init__()
        self.seen = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Run one operation."""
        self.seen = self.seen or bool(_VALUES_MATTER & set(func.tags))
        return func(*args, **(kwargs or {}))


def alike(a: Tensor, b: Tensor) -> bool:
    """Check whether two states, or intermediate results of a step, are equal up to rounding."""
    if a.shape != b.shape:
        return False
    if b.is_complex():
        a, b = torch.view_as_real(a.resolve_conj()), torch.view_as_real(b.resolve_conj())
    if not b.is_floating_point():
        return torch.equal(a, b)
    if not b.numel():
        return True
    tolerance = torch.finfo(b.dtype).eps ** 0.5
    if bool((a - b).abs().max() <= tolerance * b.abs().max()):
        return True
    scale = float(b.nan_to_num(0, 0, 0).abs().max())  # inf and NaN are fine where both have them
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance * scale, equal_nan=True)


def check_repeats(again: Tensor, s: Tensor, s_prev: Tensor) -> None:
    """Raise unless a step that was called again returned the states that it returned before.

    Args:
        again: what it returned now (…, S).
        s: what it returned before; a row that did not take the step kept ``s_prev``.
        s_prev: what it was given.

    Raises:
        InputValueError: it returned others, so no one step can be differentiated.
    """
    if alike(again, s):
        return
    stayed = (s == s_prev).all(-1, keepdim=True)
    if not alike(torch.where(stayed, s, again), s):
        raise InputValueError(
            "the step function gave another state when it was called again for the backward pass "
            "with the same input and state, so its gradient would be that of another step. Draw "
            "what is random outside and pass it in as part of the input, and let the step change "
            "nothing that it reads."
        )


def check_finite(s_t: Tensor, given: Sequence[Tensor]) -> None:
    """Raise if a step made NaN from finite numbers.

    Raises:
        NonFiniteError: it did.
    """
    if s_t.isnan().any() and all(tensor.isfinite().all() for tensor in given):
        row, unit = s_t.isnan().nonzero()[0].tolist()
        raise NonFiniteError(
            "the step function makes NaN of finite input, state and weights: at step 1 got NaN in "
            f"row {row}, unit {unit}. Look at logarithms, roots and quotients in it."
        )


def check_graph(cell: Function, x: Tensor, s: Tensor) -> None:
    """Raise if nothing that the step is given gets a gradient.

    Raises:
        GraphError: nothing does.
    """
    weights = {name: w.detach().requires_grad_() for name, w in cell.weights().items()}
    x, s = x.clone().requires_grad_(), s.clone().requires_grad_()
    with torch.enable_grad():
        # Copies, since a leaf would refuse in-place writes with a message of its own.
        s_t = rebind(cell, weights).next(x * 1, s * 1)
    # A state that depends on nothing rightly has no gradient.
    if not s_t.requires_grad and not alike(rebind(cell, weights).next(1 - x, 1 - s), s_t):
        raise GraphError(
            "autograd sees nothing of what the step function does, so all its gradients would be "
            "0; got a state without a graph. Leave out detach(), no_grad() and NumPy."
        )


def why_apart(cell: Function, x: Tensor, s: Tensor) -> str:
    """Return why rows cannot be computed beside other rows; "" where they can.

    This is tried on the given rows and on made-up ones, since a factor of the state shows nothing
    at s_0 = 0.

    Args:
        cell: the cell, over weights without a graph.
        x: an input (B, I).
        s: a state (B, S).

    Raises:
        InputValueError: the step returns another state the second time.
    """
    draw = torch.Generator().manual_seed(
        0
    )  # never the user's generator, which must stay where it is
    _refuse_random(cell, x, s)
    why = _beside(cell, (x, s), (1 - 2 * x.flip(0), 1 - 2 * s.flip(0)))
    for mean, scale in MADE_UP:
        if why:
            break
        rows = _made_up(draw, x, s, 0.0, 1.0, len(x))
        others = _made_up(draw, x, s, mean, scale, MADE_UP_ROWS)
        try:
            cell.next(*(torch.cat(pair) for pair in zip(rows, others, strict=True)))
        except Exception:
            continue  # made-up rows may be invalid for this step; the user's own are tried above
        _refuse_random(cell, *others)
        why = _beside(cell, rows, others)
    return why


def _made_up(
    draw: torch.Generator, x: Tensor, s: Tensor, mean: float, scale: float, rows: int
) -> tuple[Tensor, Tensor]:
    def like(tensor: Tensor) -> Tensor:
        dtype = torch.complex128 if tensor.is_complex() else torch.float64
        drawn = torch.randn(rows, *tensor.shape[1:], generator=draw, dtype=dtype, device="cpu")
        return (mean + scale * drawn).to(tensor)

    return like(x), like(s)


def _refuse_random(cell: Function, x: Tensor, s: Tensor) -> None:
    before = torch.get_rng_state()
    first = cell.next(x.clone(), s.clone())
    second = cell.next(x.clone(), s.clone())
    drew = not torch.equal(before, torch.get_rng_state())
    # On a CPU the same numbers produce the same bits; elsewhere the order of sums may vary.
    same = torch.equal(first.nan_to_num(0), second.nan_to_num(0)) or (
        not x.is_cpu and alike(first, second)
    )
    if drew or not same:
        raise InputValueError(
            "the step function must give the same state when called again with the same, since the "
            "backward pass calls it again; got "
            f"{'one that draws random numbers' if drew else 'another'}. Draw what is random "
            "outside and pass it in as part of the input, or call eval() on what drops units."
        )


def _beside(cell: Function, rows: tuple[Tensor, Tensor], others: tuple[Tensor, Tensor]) -> str:
    """Return why these rows come out differently beside the others; "" if they do not."""
    B = len(rows[0])
    try:
        together = cell.next(*(torch.cat(pair) for pair in zip(rows, others, strict=True)))
    except Exception as error:
        return f"the step cannot take {B + len(others[0])} rows instead of {B} ({error})"
    if not alike(together[:B], cell.next(*(part.clone() for part in rows))):
        return DEPENDS
    return DEPENDS if mixes(cell, *rows, *others) else ""


def own_rows(cell: Function, x: Tensor, s: Tensor) -> tuple[str, ...]:
    """Return which tensors that a step is given beside x have a row for each row of x.

    The fewest whose rows must be taken along for a row to have by itself the state that it has
    beside the others; none where no choice of them gives it.

    Args:
        cell: the cell, over weights without a graph.
        x: an input (B, I).
        s: a state (B, S).
    """
    B = len(x)
    candidates = [name for name, t in cell.given.items() if t.dim() and len(t) == B]
    if B == 1 or not candidates:
        return ()
    x, s = _made_up(torch.Generator().manual_seed(3), x, s, 0.0, 1.0, B)
    for count in range(len(candidates) + 1):
        for names in combinations(candidates, count):
            cell.own_rows = names
            if _stands_alone(cell, x, s):
                return names
    return ()


def _stands_alone(cell: Function, x: Tensor, s: Tensor) -> bool:
    """Check whether the first and the last row have by themselves the states they have together."""
    try:
        together = cell.next(x.clone(), s.clone())
        for b in (0, len(x) - 1):
            rows = torch.tensor([b], device=x.device)
            if not alike(cell.next(x[rows], s[rows], rows), together[rows]):
                return False
    except Exception:
        return False  # made-up rows may be no rows for this step, nor need one be enough
    return True


def mixes(cell: Function, x: Tensor, s: Tensor, x_other: Tensor, s_other: Tensor) -> bool:
    """Check whether rows' states or gradients change when other rows are beside them.

    Args:
        cell: the cell.
        x: inputs of some rows.
        s: their states.
        x_other: inputs of the other rows.
        s_other: their states.
    """
    weights = {name: w.detach() for name, w in cell.weights().items()}
    draw = torch.Generator().manual_seed(1)
    delta = torch.randn(s.shape, generator=draw, dtype=torch.float64, device="cpu").to(s)
    alone, grads = _pulled(cell, weights, x, s, delta)
    beside, more = _pulled(
        cell,
        weights,
        torch.cat((x, x_other)),
        torch.cat((s, s_other)),
        torch.cat((delta, torch.zeros_like(s_other))),
    )
    n = len(x)
    if not alike(beside[:n], alone):
        return True
    for number, (own, wide) in enumerate(zip(grads, more, strict=True)):
        if number < 2:  # the gradients of x and s, which have rows
            if bool((wide[n:] != 0).any()):
                return True
            wide = wide[:n]
        if not alike(wide, own):
            return True
    return False


def _pulled(
    cell: Function,
    weights: Mapping[str, Tensor],
    x: Tensor,
    s: Tensor,
    delta: Tensor,
    rows: Tensor | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """Return the next state, and the gradients that delta sends to x, s and each weight."""
    own = {name: w.detach().requires_grad_() for name, w in weights.items()}
    x, s = x.detach().clone().requires_grad_(), s.detach().clone().requires_grad_()
    with torch.enable_grad():
        s_t = rebind(cell, own).next(x * 1, s * 1, rows)
    of = [x, s, *own.values()]
    if not s_t.requires_grad:
        return s_t.detach(), [torch.zeros_like(i) for i in of]
    found = torch.autograd.grad(s_t, of, delta, allow_unused=True, materialize_grads=True)
    return s_t.detach(), list(found)


def sampled_steps(T: int, most: int = 4) -> list[int]:
    """Return some of the steps 1…T, including the first and the last; always the same ones."""
    if most >= T:
        return list(range(1, T + 1))
    draw = torch.Generator().manual_seed(T)
    between = torch.randperm(T - 2, generator=draw, device="cpu")[: most - 2] + 2
    return [1, *sorted(between.tolist()), T]


def mixes_steps(cell: Function, tape: Tape) -> bool:
    """Check on a sample of steps whether the rows of one change beside those of another.

    Args:
        cell: the cell.
        tape: of at least two steps.
    """
    s_prev, steps = tape.s_prev(), sampled_steps(tape.T)
    pairs = zip(steps, steps[1:] + steps[:1], strict=True)
    return any(
        mixes(cell, tape.x[k - 1], s_prev[k - 1], tape.x[other - 1], s_prev[other - 1])
        for k, other in pairs
    )


def mixes_rows(cell: Function, tape: Tape) -> bool:
    """Check on a sample of steps whether rows of the batch depend on each other there.

    Each row is sent back with its own factor: where rows are independent, its gradient is scaled
    by that factor and nothing else.

    Args:
        cell: the cell.
        tape: the steps.
    """
    s_prev = tape.s_prev()
    weights = {name: w.detach() for name, w in cell.weights().items()}
    rows = cell.rows_of(tape.saved)
    draw = torch.Generator().manual_seed(2)
    for t in sampled_steps(tape.T):
        x, s = tape.x[t - 1], s_prev[t - 1]
        delta = torch.randn(s.shape, generator=draw, dtype=torch.float64, device="cpu").to(s)
        factor = torch.randn(len(s), 1, generator=draw, dtype=torch.float64, device="cpu").to(s)
        _, plain = _pulled(cell, weights, x, s, delta, rows)
        _, scaled = _pulled(cell, weights, x, s, factor * delta, rows)
        if not all(alike(scaled[i], factor * plain[i]) for i in (0, 1)):
            return True
    return False
