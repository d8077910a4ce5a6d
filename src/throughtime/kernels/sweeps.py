"""The two sweeps of `throughtime.sweep`, compiled where a kernel applies."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import sweep as reference
from ..cells import GRU, AbstractCell
from ..errors import ShapeError
from ..shapes import check
from ..tape import Tape
from . import blocks, native, scan
from .choose import decide, in_torch
from .steps import Places, Span, Steps

__all__ = ["backward", "forward"]

_LIMIT = 2**31 - 1  # rows and steps are counted in 32 bits
# A part's pre-activations or adjoints: few enough to stay in cache, enough for a GEMM to be fast.
_PART_BYTES, _PART_ROWS = 4 << 20, 1024


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
        cell: the recurrence.
        x: inputs (T, B, I).
        s_0: the initial state (B, S).
        active: (T, B) bool; rows that are False keep their state. The compiled kernel takes rows
            whose steps are consecutive from the first on or up to the last.
        reset: (T, B) bool, within ``active``; where True the state is zeroed before the step.
        keep: whether the way back will be taken; without it the tape holds the states alone.

    Cost:
        one GEMM for all inputs, and 2·B·A·H operations a step; a row costs its own length.

    Example:
        >>> from throughtime.cells import Elman
        >>> forward(Elman(3, 5), torch.zeros(7, 2, 3), torch.zeros(2, 5)).s.shape
        torch.Size([8, 2, 5])
    """
    number = decide(cell, x, s_0, active, reset, obstacle=_size_obstacle(x.shape[0], s_0.shape[0]))
    span = None if number is None or active is None else Span.of(active)
    if span is not None and span.obstacle:
        number = decide(cell, obstacle=span.obstacle)
    if number is None:
        way = scan if in_torch(cell) == "scan" else reference
        return way.forward(cell, x, s_0, active, reset, keep=keep)
    check("x", x, "T B I", {"I": cell.input_size})
    check("s_0", s_0, "B S", {"B": x.shape[1], "S": cell.state_size})
    with torch.no_grad():
        return _run_forward(cell, number, x, s_0, active, reset, span, keep)


def _run_forward(
    cell: AbstractCell,
    number: int,
    x: Tensor,
    s_0: Tensor,
    active: Tensor | None,
    reset: Tensor | None,
    span: Span | None,
    keep: bool,
) -> Tape:
    """Go forward part by part: the input's GEMM, then the steps while its result is in cache."""
    (T, B), H, A = x.shape[:2], cell.hidden_size, cell.preact_size
    parts = split(T, B, A * x.element_size())
    s = native.empty(x, T + 1, B, cell.state_size)
    s[0] = s_0
    whole = keep and number > 0  # the gates take the place of a; nothing of it is kept otherwise
    a = native.empty(x, T if whole else max(last - first for first, last in parts), B, A)
    q = native.empty(x, T, B, H) if keep and number == 2 else None
    steps = Steps(cell, number, s, q, span, reset, back=False)
    steps.sweep.keep = keep
    for first, last in parts:
        a_part = a[first:last] if whole else a[: last - first]
        if active is None:
            drive_into(cell, x[first:last], a_part)
            steps.run(first, last, a_part)
        else:  # only what rows take goes through the GEMM
            places = Places.among(active[first:last])
            taken = places.pick(x[first:last])
            drive = taken.new_empty(len(taken), A)
            drive_into(cell, taken, drive)
            steps.run(first, last, a_part, places, drive)
    tape = Tape(x, s, (), active, reset)
    return Tape(x, s, _saved(number, tape, a, q) if keep else (), active, reset)


def split(T: int, B: int, row_bytes: int) -> list[tuple[int, int]]:
    """Cut T steps into parts whose GEMMs are large and whose results stay in cache."""
    rows = max(_PART_ROWS, _PART_BYTES // row_bytes)
    n = max(1, min(T, round(T * B / rows)))
    return [(T * i // n, T * (i + 1) // n) for i in range(n)]


def drive_into(cell: AbstractCell, x: Tensor, out: Tensor) -> None:
    """Write ``cell.drive(x)`` into ``out`` (T, B, A) instead of a new tensor."""
    rows, flat = x.reshape(-1, x.shape[-1]), out.view(-1, out.shape[-1])
    weight: Tensor = cell.weight_ih  # pyright: ignore[reportAssignmentType]
    if cell.bias_ih is None:
        torch.mm(rows, weight.T, out=flat)
        return
    bias: Tensor = cell.bias_hh.clone()  # pyright: ignore
    bias_ih: Tensor = cell.bias_ih  # pyright: ignore[reportAssignmentType]
    if isinstance(cell, GRU):
        bias[2 * cell.hidden_size :] = 0  # b_hn stays inside the reset gate's product
    torch.addmm(bias.add_(bias_ih), rows, weight.T, out=flat)


def _saved(number: int, tape: Tape, a: Tensor, q: Tensor | None) -> tuple[Tensor, ...]:
    """Give what the cell's own `step` would have saved; ``a`` holds the gates by now."""
    if number == 0:
        return (tape.s[1:],)
    if number == 1:
        return a, tape.s_prev(), tape.s[1:]
    assert q is not None
    return a, q, tape.s_prev()


def backward(
    cell: AbstractCell, tape: Tape, g: Tensor, delta_T: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Send V losses back through all steps in one sweep (eq. 9), as `sweep.backward` does.

    Args:
        cell: the recurrence.
        tape: what its forward sweep kept.
        g: direct gradients (V, T, B, G) into the first G ≤ S entries of s_1…s_T.
        delta_T: what else arrives at s_T, (V, B, S).

    Returns:
        The adjoints (V, T, B, A), and dE/ds_0 (V, B, S).

    Cost:
        2·V·B·A·H operations a step; memory V·T·B·A.
    """
    number = decide_back(cell, tape, g, delta_T, V=g.shape[0])
    if number is None:
        if in_torch(cell) == "blocks" and g.shape[0] == 1:
            return blocks.backward(cell, tape, g, delta_T)  # pyright: ignore[reportArgumentType]
        way = scan if in_torch(cell) == "scan" else reference
        return way.backward(cell, tape, g, delta_T)
    with torch.no_grad():
        adjoints = native.empty(g, *g.shape[:3], cell.preact_size)
        return adjoints, run_back(cell, number, tape, g, delta_T, adjoints=adjoints)


def decide_back(
    cell: AbstractCell, tape: Tape, g: Tensor | None, delta_T: Tensor | None, V: int = 1
) -> int | None:
    """Give the number of the compiled kernel for the way back, or None for the reference."""
    obstacle = _size_obstacle(tape.T, V * tape.B)
    if tape.active is not None:
        obstacle = obstacle or Span.of(tape.active).obstacle
    return decide(cell, tape.s, *tape.saved, g, delta_T, obstacle=obstacle)


def run_back(
    cell: AbstractCell,
    number: int,
    tape: Tape,
    g: Tensor | None,
    delta_T: Tensor | None = None,
    *,
    V: int = 1,
    enters: Tensor | None = None,
    floors: Tensor | None = None,
    adjoints: Tensor | None = None,
    norms: Tensor | None = None,
    deltas: Tensor | None = None,
) -> Tensor:
    """Run the compiled backward sweep into the arrays given, and give dE/ds_0 (V, B, S).

    Args:
        cell: the recurrence.
        number: of its compiled kernel.
        tape: what its forward sweep kept.
        g: direct gradients (V, T, B, G); or (T, B, G), of which loss v has step ``enters[v]``.
        delta_T: what else arrives at s_T, (V, B, S).
        V: how many losses there are, where neither ``g`` nor ``delta_T`` says so.
        enters: (V,) the last step, counted from 0, at which a loss enters; -1: nowhere.
        floors: (V,) the lowest k that a loss is followed to.
        adjoints: (V, T, B, A) to write, or (V, T, B, 4H) for the GRU.
        norms: (V, T+1, B) to write.
        deltas: (V, T+1, B, S) to write.
    """
    T, B, S = tape.T, tape.B, cell.state_size
    V = g.shape[0] if g is not None and g.dim() == 4 else V if delta_T is None else len(delta_T)
    steps = back_steps(cell, number, tape, g, V=V)
    sweep = steps.sweep
    if delta_T is not None:
        delta_T = delta_T.contiguous()
        check("delta_T", delta_T, "V B S", {"V": V, "B": B, "S": S})
        sweep.delta_T = delta_T.data_ptr()
    for name, where in (("enters", enters), ("floors", floors)):
        if where is not None:
            check(name, where, "V", {"V": V})
            numbers = where.to(torch.int32).clamp(-1, T).contiguous()
            steps.alive.append(numbers)
            setattr(sweep, name, numbers.data_ptr())
    delta_0 = tape.s.new_empty(V, B, S)
    sweep.delta_0 = delta_0.data_ptr()
    for name, out in (("adjoints", adjoints), ("norms", norms), ("deltas", deltas)):
        if out is not None:
            assert out.is_contiguous() and out.dtype == tape.s.dtype
            setattr(sweep, name, out.data_ptr())
    sweep.width = cell.preact_size if adjoints is None else adjoints.shape[-1]
    steps.run(0, T)
    return delta_0


def back_steps(
    cell: AbstractCell, number: int, tape: Tape, g: Tensor | None, *, V: int = 1
) -> Steps:
    """Describe the way back over a tape, with what enters it; where to write is still open."""
    T, B, H, S = tape.T, tape.B, cell.hidden_size, cell.state_size
    s, a = tape.s.contiguous(), tape.saved[0].contiguous()
    check("tape.s", s, "T B S", {"T": T + 1, "B": B, "S": S})
    check("tape.saved[0]", a, "T B A", {"T": T, "B": B, "A": cell.preact_size})
    q = tape.saved[1].contiguous() if number == 2 else None
    span = None if tape.active is None else Span.of(tape.active)
    steps = Steps(cell, number, s, q, span, tape.reset, back=True)
    steps.a, sweep = a, steps.sweep
    sweep.V = V
    if g is not None:
        g = _readable(g, H, S)
        check("g", g, "V T B G" if g.dim() == 4 else "T B G", {"V": V, "T": T, "B": B})
        steps.g, sweep.G, sweep.g_sparse = g, g.shape[-1], g.dim() == 3
        sweep.g_stride_v = g.stride(0) if g.dim() == 4 else 0
        sweep.g_stride_t, sweep.g_stride_b = g.stride(-3), g.stride(-2)
    return steps


def _readable(g: Tensor, H: int, S: int) -> Tensor:
    """Give g with H or S columns that lie side by side; rows may lie anywhere."""
    G = g.shape[-1]
    if G > S:
        raise ShapeError(f"g has {G} columns, and the state {S}.")
    if G not in (H, S):
        g = torch.nn.functional.pad(g, (0, (H if G < H else S) - G))
    return g if g.stride(-1) == 1 or g.shape[-1] == 1 else g.contiguous()


def _size_obstacle(T: int, rows: int) -> str:
    if T == 0 or rows == 0:
        return "there is nothing to compute: no step or no row."
    return "" if max(T + 1, rows) <= _LIMIT else "there are more rows or steps than 2³¹ − 1."
