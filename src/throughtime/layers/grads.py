"""The gradients that one backward sweep gives, for one loss or for several at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import compress, count

import torch
from torch import Tensor

from .. import kernels
from ..cells import Function
from ..cells.base import AbstractCell
from ..tape import Tape

__all__ = ["batched_grads", "grads", "grads_of_one", "is_batched"]

Back = Callable[[Tensor | None, Tensor | None], list[Tensor | None]]
One = Callable[..., kernels.Gradients]


def grads_of_one(
    cell: AbstractCell,
    tape: Tape,
    needs: Sequence[bool],
    g_h: Tensor | None,
    g_s: Tensor | None,
    one: One | None = None,
) -> list[Tensor | None]:
    """Send one loss back and give the gradients that are wanted (eq. 9, 5).

    Args:
        cell: the recurrence.
        tape: what its forward sweep kept.
        needs: whether the gradient of x, of s_0, and of each weight is wanted.
        g_h: what arrives at the outputs, (T, B, H).
        g_s: what arrives at the final state, (B, S).
        one: the way back under a schedule; None: all steps in one sweep.

    Returns:
        The gradients of x (T, B, I), s_0 (B, S) and each weight, or None.
    """
    names = list(cell.weights())
    wants = None if all(needs[2:]) else frozenset(compress(names, needs[2:]))
    way = one or partial(kernels.gradients, cell, tape)
    weights, g_x, g_s0 = way(g_h, g_s, wants=wants, want_x=needs[0])
    return [g_x, g_s0 if needs[1] else None, *map(weights.get, names)]


def grads(
    cell: AbstractCell,
    tape: Tape,
    needs: Sequence[bool],
    g_h: Tensor | None,
    g_s: Tensor | None,
    one: One | None = None,
) -> list[Tensor | None]:
    """Send V losses back and give the gradients that are wanted (eq. 9, 5).

    Args:
        cell: the recurrence.
        tape: what its forward sweep kept.
        needs: whether the gradient of x, of s_0, and of each weight is wanted.
        g_h: what arrives at the outputs, (V, T, B, H).
        g_s: what arrives at the final state, (V, B, S).
        one: the way back of one loss under a schedule; None: all steps in one sweep.

    Returns:
        The gradients of x (V, T, B, I), s_0 (V, B, S) and each weight (V, ·), or None.
    """
    V = len(g_h if g_h is not None else g_s)  # pyright: ignore[reportArgumentType]
    if V == 1 or one is not None:
        each = [
            grads_of_one(
                cell,
                tape,
                needs,
                None if g_h is None else g_h[v],
                None if g_s is None else g_s[v],
                one,
            )
            for v in range(V)
        ]
        return [_together(list(parts)) for parts in zip(*each, strict=True)]
    needs_x, needs_s0, *needs_weights = needs
    wants = frozenset(n for n, needed in zip(cell.weights(), needs_weights, strict=True) if needed)
    if g_h is None:
        g_h = tape.s.new_zeros(1).expand(V, tape.T, tape.B, 1)
    else:
        g_h = kernels.taken(g_h, tape.active)
    tape = kernels.complete(cell, tape)
    adjoints, delta_0 = kernels.backward(cell, tape, g_h, g_s)
    by_loss = [cell.param_grads(tape, adjoint) for adjoint in adjoints] if wants else []
    return [
        cell.input_grad(adjoints) if needs_x else None,
        delta_0 if needs_s0 else None,
        *(
            torch.stack([by_name[name] for by_name in by_loss]) if name in wants else None
            for name in cell.weights()
        ),
    ]


def _together(parts: list[Tensor | None]) -> Tensor | None:
    """Give one gradient of V losses, (V, ·), or None where it was not wanted."""
    there = [part for part in parts if part is not None]
    if not there:
        return None
    return there[0][None] if len(there) == 1 else torch.stack(there)


def is_batched(g: Tensor | None) -> bool:
    """Say whether ``g`` is a batch that vmap hides behind one tensor."""
    # torch has no public question for this; both kinds are met, the older by is_grads_batched.
    functorch = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
    return g is not None and (functorch.is_batchedtensor(g) or functorch.is_legacy_batchedtensor(g))


# What the operation below is to run, while it runs: vmap can carry tensors and numbers only.
_RUNNING: dict[int, Back] = {}
_NUMBERS = count()

torch.library.define("throughtime::back", "(int sweep, Tensor? g_h, Tensor? g_s) -> Tensor")


@torch.library.impl("throughtime::back", "CompositeExplicitAutograd")
def _one(number: int, g_h: Tensor | None, g_s: Tensor | None) -> Tensor:
    return _flat(
        _RUNNING[number](
            None if g_h is None else g_h[None],
            None if g_s is None else g_s[None],
        )
    )[0]


def _all(info, in_dims, number: int, g_h: Tensor | None, g_s: Tensor | None):
    """Run all losses of a vmap in one sweep: they are its axis V."""

    def leading(g: Tensor | None, dim: int | None) -> Tensor | None:
        if g is None:
            return None
        return g.expand(info.batch_size, *g.shape) if dim is None else g.movedim(dim, 0)

    back = _RUNNING[number]
    g_h, g_s = leading(g_h, in_dims[1]), leading(g_s, in_dims[2])
    if not isinstance(getattr(back, "args", (None,))[0], Function):
        return _flat(back(g_h, g_s)), 0
    # This cell asks autograd, which is refused where a vmap is under way: in this thread alone.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.no_grad()(lambda: _flat(back(g_h, g_s)))).result(), 0


torch.library.register_vmap("throughtime::back", _all)


def _flat(found: list[Tensor | None]) -> Tensor:
    return torch.cat([g.flatten(1) for g in found if g is not None], 1)


def batched_grads(
    back: Back, g_h: Tensor | None, g_s: Tensor | None, shapes: Sequence[torch.Size | None]
) -> list[Tensor | None]:
    """Give what `grads` gives where vmap hides the axis V.

    Args:
        back: `grads` but for its last two arguments.
        g_h: what arrives at the outputs, a batch of (T, B, H) behind one tensor.
        g_s: what arrives at the final state, likewise (B, S).
        shapes: the shape of each gradient that is wanted, None for the others.
    """
    number = next(_NUMBERS)
    _RUNNING[number] = back
    try:
        flat = torch.ops.throughtime.back(number, g_h, g_s)
    finally:
        del _RUNNING[number]
    sizes = [shape.numel() for shape in shapes if shape is not None]
    pieces = iter(flat.split(sizes))
    return [None if shape is None else next(pieces).view(shape) for shape in shapes]
