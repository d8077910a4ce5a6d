"""The two sweeps over bare tensors, by the kernel that the plan names: memory and launches."""

# pyright: reportIndexIssue=false

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor

from ...norms import vector_norm
from ...replays import REPLAYS, Tensors, Work, obstacle
from .meeting import PATIENCE
from .resident import backward_resident, forward_resident
from .shape import Bound, Shape, precision, tiles
from .stepwise import backward_step, forward_step
from .tiling import COLUMNS, INNER, RESIDENT_WARPS
from .triton_language import OutOfResources
from .whole import backward_whole, forward_whole

__all__ = ["run_backward", "run_forward", "too_large"]


def run_forward(shape: Shape, keep: bool, *inputs: Tensor | None) -> Tensors:
    """Return the states (T+1, B, S), the gates and q (T, B, ·), the last two where they are kept.

    Args:
        shape: the recurrence.
        keep: whether what the backward pass needs is kept.
        inputs: the drive (T, B, A), W_h, the bias within the GRU's product, s_0 (B, S), and
            ``active`` and ``reset`` in bytes (T, B).
    """
    return _run((shape, keep), _FORWARD, inputs)


def run_backward(shape: Shape, bound: Bound, *inputs: Tensor | None) -> Tensors:
    """Return adjoints, deltas and norms where they are wanted, and dE/ds_0.

    Args:
        shape: the recurrence.
        bound: what is wanted.
        inputs: W_h, the states, the gates, q, ``active`` and ``reset`` in bytes, the direct
            gradients, delta_T or None, and ``enters`` and ``floors``, or None.
    """
    return _run((shape, bound), _BACKWARD, inputs)


def _run(
    what: tuple[Shape, Any], ways: dict[str, Work], inputs: tuple[Tensor | None, ...]
) -> Tensors:
    """Take all steps in one launch where the plan says so and the device can, else one by one.

    Steps are recorded in a CUDA graph on a GPU, where nothing is in the way.
    """
    first = inputs[0]
    assert first is not None
    with torch.cuda.device_of(first):
        key = (*what, precision(), first.device)
        way, steps = what[0].plan.way, ways["steps"]
        if way != "steps" and key not in _TOO_LARGE:
            with suppress(OutOfResources), _as_out_of_resources():
                return ways[way](*what, *inputs)
            _TOO_LARGE.add(key)
        if first.is_cuda and not obstacle(first.device):
            return REPLAYS.run(key, lambda *tensors: steps(*what, *tensors), inputs).tensors
        return steps(*what, *inputs)


@contextmanager
def _as_out_of_resources() -> Iterator[None]:
    """Raise as `OutOfResources` that not all programs of a launch can run at the same time.

    Raises:
        OutOfResources: the driver said so.
        RuntimeError: any other error of a launch.
    """
    try:
        yield
    except RuntimeError as error:
        if "cooperative" not in str(error):
            raise
        raise OutOfResources(1, 0, "programs at the same time") from error


# What a device, or a version of Triton, could not take in one launch against the plan.
_TOO_LARGE: set[tuple[Any, ...]] = set()


def too_large() -> bool:
    """Check whether a device could not take some sweep in one launch, against the plan."""
    return bool(_TOO_LARGE)


def _taped(
    shape: Shape, keep: bool, a: Tensor, s_0: Tensor
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return memory for the states, of which the first is there, and for what is kept of a step."""
    T, B, A = a.shape
    s = torch.cat((s_0[None], a.new_empty(T, *s_0.shape)))
    gates = a.new_empty(T, B, A) if keep and shape.gates > 1 else None
    return s, gates, a.new_empty(T, B, shape.H) if keep and shape.name == "gru" else None


def _or(tensor: Tensor | None, stand_in: Tensor) -> Tensor:
    """Return a tensor for a kernel, which takes no None; it does not look at the stand-in."""
    return stand_in if tensor is None else tensor


def _forward_whole(
    shape: Shape, keep: bool, a: Tensor, w: Tensor, bias: Tensor | None, s_0: Tensor,
    active: Tensor | None, reset: Tensor | None,
) -> Tensors:  # fmt: skip
    T, B, _ = a.shape
    s, gates, q = _taped(shape, keep, a, s_0)
    forward_whole[(tiles(B),)](
        a, w, _or(bias, a), s, _or(gates, a), _or(q, a), _or(active, a), _or(reset, a),
        T, B, shape.H, WIDE=shape.plan.wide, KEEP=keep, RAGGED=active is not None,
        RESETS=reset is not None, BIASED=bias is not None, **shape.options(),
    )  # fmt: skip
    return s, gates, q


def _forward_steps(
    shape: Shape, keep: bool, a: Tensor, w: Tensor, bias: Tensor | None, s_0: Tensor,
    active: Tensor | None, reset: Tensor | None,
) -> Tensors:  # fmt: skip
    T, B, _ = a.shape
    s, gates, q = _taped(shape, keep, a, s_0)
    carry = s_0.to(torch.float32, copy=True)
    grid = (tiles(shape.H, COLUMNS), tiles(B))
    for t in range(1, T + 1):
        forward_step[grid](
            a, w, _or(bias, a), s, carry, _or(gates, a), _or(q, a), _or(active, a), _or(reset, a),
            t, B, shape.H, COLUMNS=COLUMNS, INNER=INNER, KEEP=keep, RAGGED=active is not None,
            RESETS=reset is not None, BIASED=bias is not None, **shape.options(),
        )  # fmt: skip
    return s, gates, q


def _meeting(shape: Shape, like: Tensor, tiles: int) -> tuple[tuple[int, int], dict[str, Any]]:
    """Return the grid of programs that meet, and what their kernels are given besides."""
    plan = shape.plan
    groups = min(tiles, plan.groups)
    return (plan.sharing, groups), {
        "counters": like.new_zeros(groups, dtype=torch.int32), "SPREAD": plan.spread,
        "COLUMNS": plan.columns, "WIDE": plan.wide, "PATIENCE": PATIENCE,
        # All programs run at the same time, or none does.
        "launch_cooperative_grid": True,
        # Nothing of a step is loaded before the one before it is there.
        "num_stages": 1, **shape.options(), "num_warps": RESIDENT_WARPS,
    }  # fmt: skip


def _forward_resident(
    shape: Shape, keep: bool, a: Tensor, w: Tensor, bias: Tensor | None, s_0: Tensor,
    active: Tensor | None, reset: Tensor | None,
) -> Tensors:  # fmt: skip
    T, B, _ = a.shape
    s, gates, q = _taped(shape, keep, a, s_0)
    carry = s_0.to(torch.float32, copy=True)
    grid, options = _meeting(shape, a, tiles(B))
    forward_resident[grid](
        a, w, _or(bias, a), s, carry, _or(gates, a), _or(q, a), _or(active, a), _or(reset, a),
        T=T, B=B, H=shape.H, KEEP=keep, RAGGED=active is not None, RESETS=reset is not None,
        BIASED=bias is not None, **options,
    )  # fmt: skip
    return s, gates, q


def _found(
    shape: Shape, bound: Bound, s: Tensor, g: Tensor, enters: Tensor | None
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor]:
    """Return memory for what is wanted; 0 where a loss takes fewer steps than there are."""
    V = g.shape[0] if enters is None else enters.shape[0]
    T, B, S = s.shape[0] - 1, *s.shape[1:]
    new = s.new_empty if enters is None else s.new_zeros
    return (
        new(V, T, B, shape.gates * shape.H) if bound.adjoints else None,
        new(V, T + 1, B, S) if bound.deltas else None,
        new(V, T + 1, B) if bound.norms else None,
        new(V, B, S),
    )


def _backward_whole(
    shape: Shape, bound: Bound, w: Tensor, s: Tensor, gates: Tensor | None, q: Tensor | None,
    active: Tensor | None, reset: Tensor | None, g: Tensor, delta_T: Tensor | None,
    enters: Tensor | None, floors: Tensor | None,
) -> Tensors:  # fmt: skip
    found = _found(shape, bound, s, g, enters)
    adjoints, deltas, norms, s_0 = found
    T, B = s.shape[0] - 1, s.shape[1]
    backward_whole[(tiles(B), len(s_0))](
        w, s, _or(gates, s), _or(q, s), _or(active, s), _or(reset, s), g, _or(delta_T, s),
        _or(enters, s), _or(floors, s), _or(adjoints, s), _or(deltas, s), _or(norms, s), s_0,
        T, B, shape.H, g.shape[-1], 0 if bound.lone else g.stride(0), g.stride(-3), g.stride(-2),
        WIDE=shape.plan.wide, RAGGED=active is not None, RESETS=reset is not None,
        BEGUN=delta_T is not None, BOUNDED=enters is not None, LONE=bound.lone,
        ADJOINTS=adjoints is not None, DELTAS=deltas is not None, NORMS=norms is not None,
        **shape.options(),
    )  # fmt: skip
    return found


def _backward_resident(
    shape: Shape, bound: Bound, w: Tensor, s: Tensor, gates: Tensor | None, q: Tensor | None,
    active: Tensor | None, reset: Tensor | None, g: Tensor, delta_T: Tensor | None,
    enters: Tensor | None, floors: Tensor | None,
) -> Tensors:  # fmt: skip
    adjoints, deltas, norms, s_0 = _found(shape, bound, s, g, enters)
    V, T, B = len(s_0), s.shape[0] - 1, s.shape[1]
    through, carry = s.new_empty(2, V, B, shape.gates * shape.H), _carried(s_0, delta_T)
    grid, options = _meeting(shape, s, V * tiles(B))
    # A program knows its own columns alone: the norm of its norms is the vector's.
    own = None if norms is None else norms.new_zeros(*norms.shape, grid[0], dtype=torch.float32)
    backward_resident[grid](
        w, s, _or(gates, s), _or(q, s), _or(active, s), _or(reset, s), g, _or(enters, s),
        _or(floors, s), through, carry, _or(adjoints, s), _or(deltas, s), _or(own, carry), s_0,
        T=T, B=B, V=V, H=shape.H, G=g.shape[-1], g_v=0 if bound.lone else g.stride(0),
        g_t=g.stride(-3), g_b=g.stride(-2), RAGGED=active is not None, RESETS=reset is not None,
        BOUNDED=enters is not None, LONE=bound.lone, ADJOINTS=adjoints is not None,
        DELTAS=deltas is not None, NORMS=norms is not None, **options,
    )  # fmt: skip
    if norms is not None and own is not None:
        norms.copy_(vector_norm(own))
    return adjoints, deltas, norms, s_0


def _carried(s_0: Tensor, delta_T: Tensor | None) -> Tensor:
    """Return memory for what goes on without a weight, with what arrives at the last step."""
    carry = s_0.new_zeros(s_0.shape, dtype=torch.float32)
    return carry if delta_T is None else carry.copy_(delta_T)


def _backward_steps(
    shape: Shape, bound: Bound, w: Tensor, s: Tensor, gates: Tensor | None, q: Tensor | None,
    active: Tensor | None, reset: Tensor | None, g: Tensor, delta_T: Tensor | None,
    enters: Tensor | None, floors: Tensor | None,
) -> Tensors:  # fmt: skip
    found = _found(shape, bound, s, g, enters)
    adjoints, deltas, norms, s_0 = found
    V, T, B = len(s_0), s.shape[0] - 1, s.shape[1]
    # What a step leaves for all columns of the next launch; two, since some still read the first.
    left = [s.new_zeros(V, B, shape.gates * shape.H) for _ in range(2)]
    carry = _carried(s_0, delta_T)
    shown = deltas is not None or norms is not None
    now = torch.empty_like(carry) if shown else carry
    grid = (tiles(shape.H, COLUMNS), tiles(B), V)
    for t in range(T, -1, -1):
        backward_step[grid](
            w, s, _or(gates, s), _or(q, s), _or(active, s), _or(reset, s), g, _or(enters, s),
            _or(floors, s), left[t % 2], left[1 - t % 2], carry, _or(adjoints, s), now, s_0,
            t, T, B, shape.H, g.shape[-1], 0 if bound.lone else g.stride(0), g.stride(-3),
            g.stride(-2), COLUMNS=COLUMNS, INNER=INNER, RAGGED=active is not None,
            RESETS=reset is not None, BOUNDED=enters is not None, LONE=bound.lone,
            ADJOINTS=adjoints is not None, SHOWN=shown, **shape.options(),
        )  # fmt: skip
        if deltas is not None:
            deltas[:, t] = now
        if norms is not None:
            norms[:, t] = vector_norm(now)
    return found


_FORWARD: dict[str, Work] = {
    "whole": _forward_whole, "resident": _forward_resident, "steps": _forward_steps,
}  # fmt: skip
_BACKWARD: dict[str, Work] = {
    "whole": _backward_whole, "resident": _backward_resident, "steps": _backward_steps,
}  # fmt: skip
