"""The two sweeps, as `throughtime.sweep` has them, on Triton's kernels: memory and launches."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...cells import AbstractCell
from ...tape import Tape
from .language import INTERPRETED
from .plan import GATES, ROWS, Plan, plan_for, recurrence
from .whole import backward_whole, forward_whole

__all__ = ["Wanted", "backward", "forward", "send_back"]


class Wanted(NamedTuple):
    """What a backward sweep over V losses stores.

    Attributes:
        adjoints: whether the adjoints are wanted.
        deltas: whether ∂E_v/∂s_k is wanted.
        norms: whether its norms are wanted.
        enters: (V,) the step at which each loss enters; None: the last one.
        floors: (V,) the lowest k that each loss is followed to; None: 0.
        lone: whether a loss has the direct gradient of the step alone at which it enters.
    """

    adjoints: bool = True
    deltas: bool = False
    norms: bool = False
    enters: Tensor | None = None
    floors: Tensor | None = None
    lone: bool = False


class Shape(NamedTuple):
    """A cell's recurrence, its plan, and what all kernels are told of them."""

    cell: AbstractCell
    name: str
    plan: Plan
    gates: int
    parts: int

    @property
    def H(self) -> int:
        """The width of h."""
        return self.cell.hidden_size

    def constants(self) -> dict[str, Any]:
        """Return what every kernel is compiled for."""
        return {
            "CELL": self.name,
            "GATES": self.gates,
            "PARTS": self.parts,
            "ROWS": ROWS,
            "PRECISION": precision(),
            "INTERPRETED": INTERPRETED,
        }


def precision() -> str:
    """Return how float32 is multiplied: exactly enough by three TF32 products, or by one.

    One is what torch's own switch allows: ``torch.backends.cuda.matmul.allow_tf32``.
    """
    return "tf32" if torch.backends.cuda.matmul.allow_tf32 else "tf32x3"


def shape_of(cell: AbstractCell) -> Shape:
    """Return the shape of a cell that the kernels serve."""
    name = recurrence(cell)
    assert name is not None
    weight = cell.weights()["weight_hh"]
    plan = plan_for(name, cell.hidden_size, weight.dtype)
    return Shape(cell, name, plan, GATES.get(name, 1), 2 if name == "lstm" else 1)


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
        active: (T, B) bool; rows that are False keep their state.
        reset: (T, B) bool; where True the state is zeroed before the step.
        keep: whether the backward pass will be taken.
    """
    shape = shape_of(cell)
    with torch.no_grad():
        a = cell.drive(x).contiguous()
        T, B, A = a.shape
        s = a.new_empty(T + 1, B, cell.state_size)
        s[0] = s_0
        gates = a.new_empty(T, B, A) if keep and shape.gates > 1 else a
        q = a.new_empty(T, B, shape.H) if keep and shape.name == "gru" else a
        _run_forward(shape, a, s, gates, q, _bytes(active), _bytes(reset), keep)
    kept = {"gru": (gates, q), "lstm": (gates,)}.get(shape.name, ()) if keep else ()
    if keep:
        bare = Tape(x, s, kept, active, reset)
        kept = cell.with_states(bare)
    return Tape(x, s, kept, active, reset)


def _run_forward(
    shape: Shape,
    a: Tensor,
    s: Tensor,
    gates: Tensor,
    q: Tensor,
    active: Tensor | None,
    reset: Tensor | None,
    keep: bool,
) -> None:
    T, B, _ = a.shape
    weight, bias = _weight(shape.cell)
    forward_whole[(_tiles(B),)](
        a, weight, bias if bias is not None else a, s, gates, q,
        active if active is not None else a, reset if reset is not None else a, T, B, shape.H,
        WIDE=shape.plan.wide, KEEP=keep, RAGGED=active is not None, RESETS=reset is not None,
        BIASED=bias is not None, num_warps=_warps(shape.plan), **shape.constants(),
    )  # fmt: skip


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
    """
    adjoints, _, _, s_0 = send_back(cell, tape, g, delta_T, Wanted())
    assert adjoints is not None
    return adjoints, s_0


def send_back(
    cell: AbstractCell, tape: Tape, g: Tensor, delta_T: Tensor | None, wanted: Wanted
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor]:
    """Send V losses back, and return adjoints, deltas, norms (None if not wanted) and dE/ds_0.

    Args:
        cell: the recurrence.
        tape: what its forward sweep kept.
        g: direct gradients (V, T, B, G), or (T, B, G) with ``wanted.lone``.
        delta_T: what else arrives at s_T, (V, B, S), or None.
        wanted: what is stored.
    """
    shape = shape_of(cell)
    with torch.no_grad():
        enters, floors = wanted.enters, wanted.floors
        if floors is not None and enters is None:
            enters = torch.full_like(floors, tape.T)
        V = g.shape[0] if enters is None else enters.shape[0]
        T, B, A, S = tape.T, tape.B, cell.preact_size, cell.state_size
        # Where a loss takes fewer steps than there are, the rest is 0.
        new = tape.s.new_empty if enters is None else tape.s.new_zeros
        found = (
            new(V, T, B, A) if wanted.adjoints else None,
            new(V, T + 1, B, S) if wanted.deltas else None,
            new(V, T + 1, B) if wanted.norms else None,
            new(V, B, S),
        )
        if enters is not None:
            enters = enters.contiguous()
            floors = torch.zeros_like(enters) if floors is None else floors.contiguous()
        g = g if g.stride(-1) == 1 or g.shape[-1] == 1 else g.contiguous()
        delta_T = None if delta_T is None else delta_T.contiguous()
        _run_backward(shape, tape, g, delta_T, enters, floors, wanted.lone, V, found)
    return found


def _run_backward(
    shape: Shape,
    tape: Tape,
    g: Tensor,
    delta_T: Tensor | None,
    enters: Tensor | None,
    floors: Tensor | None,
    lone: bool,
    V: int,
    found: tuple[Tensor | None, Tensor | None, Tensor | None, Tensor],
) -> None:
    T, B = tape.T, tape.B
    weight, _ = _weight(shape.cell)
    s = tape.s.contiguous()
    own = [kept.contiguous() for kept in tape.saved[: len(shape.cell.kept_widths() or ())]]
    active, reset = _bytes(tape.active), _bytes(tape.reset)
    g_v = 0 if lone else g.stride(0)
    adjoints, deltas, norms, s_0 = found
    stand_in = lambda t: s if t is None else t  # noqa: E731 - a kernel takes no None
    backward_whole[(_tiles(B), V)](
        weight, s, own[0] if own else s, own[1] if len(own) > 1 else s, stand_in(active),
        stand_in(reset), g, stand_in(delta_T), stand_in(enters), stand_in(floors),
        stand_in(adjoints), stand_in(deltas), stand_in(norms), s_0, T, B, shape.H, g.shape[-1],
        g_v, g.stride(-3), g.stride(-2),
        WIDE=shape.plan.wide, RAGGED=active is not None, RESETS=reset is not None,
        BEGUN=delta_T is not None, BOUNDED=enters is not None, LONE=lone,
        ADJOINTS=adjoints is not None, DELTAS=deltas is not None, NORMS=norms is not None,
        num_warps=_warps(shape.plan), **shape.constants(),
    )  # fmt: skip


def _tiles(rows: int) -> int:
    return -(-rows // ROWS)


def _warps(plan: Plan) -> int:
    """Return the warps of a program: four for each 64 rows of W_h that the tensor cores take."""
    return 4 if plan.wide <= 64 else 8


def _weight(cell: AbstractCell) -> tuple[Tensor, Tensor | None]:
    """Return W_h, and the bias that stands within the GRU's product."""
    weights, H = cell.weights(), cell.hidden_size
    bias = weights.get("bias_hh") if recurrence(cell) == "gru" else None
    return weights["weight_hh"].contiguous(), None if bias is None else bias[2 * H :].contiguous()


def _bytes(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else mask.contiguous().view(torch.uint8)
