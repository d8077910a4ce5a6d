"""The two sweeps, as `throughtime.sweep` has them, on Triton's kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from ... import sweep
from ...cells import AbstractCell, Elman
from ...tape import Tape
from .bare import run_backward, run_forward
from .shape import Bound, as_bytes, shape_of
from .tiling import recurrence

__all__ = ["Bound", "backward", "backward_with_norms", "forward", "trial"]


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
    with torch.no_grad():
        weight, bias = _weight(cell)
        drive = cell.drive(x).contiguous()
        masks = as_bytes(active), as_bytes(reset)
        found = run_forward(shape_of(cell), keep, drive, weight, bias, s_0.contiguous(), *masks)
        s, *saved = found
        assert s is not None
        tape = Tape(x, s, tuple(part for part in saved if part is not None), active, reset)
        if not keep:
            return tape
        return Tape(x, s, cell.with_states(tape), active, reset)


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
    adjoints, _, _, s_0 = backward_with_norms(cell, tape, g, delta_T, Bound())
    assert adjoints is not None
    assert s_0 is not None
    return adjoints, s_0


def backward_with_norms(
    cell: AbstractCell,
    tape: Tape,
    g: Tensor,
    delta_T: Tensor | None,
    bound: Bound,
    enters: Tensor | None = None,
    floors: Tensor | None = None,
) -> tuple[Tensor | None, ...]:
    """Send V losses back, and return adjoints, deltas, norms (None if not wanted) and dE/ds_0.

    Args:
        cell: the recurrence.
        tape: what its forward sweep kept.
        g: direct gradients (V, T, B, G), or (T, B, G) with ``bound.lone``.
        delta_T: what else arrives at s_T, (V, B, S), or None.
        bound: what is stored.
        enters: (V,) the step at which each loss enters; None: the last one.
        floors: (V,) the lowest k that each loss is followed to, with ``enters``; None: 0.
    """
    with torch.no_grad():
        gates, q = (*_own(cell, tape), None, None)[:2]
        if enters is not None:
            floors = torch.zeros_like(enters) if floors is None else floors.contiguous()
        delta_T = None if delta_T is None else delta_T.contiguous()
        return run_backward(
            shape_of(cell), bound, _weight(cell)[0], tape.s.contiguous(), gates, q,
            as_bytes(tape.active), as_bytes(tape.reset),
            g if g.stride(-1) == 1 else g.contiguous(), delta_T, enters, floors,
        )  # fmt: skip


def _own(cell: AbstractCell, tape: Tape) -> list[Tensor]:
    """Return what the cell keeps besides the states."""
    return [kept.contiguous() for kept in tape.saved[: len(cell.kept_widths() or ())]]


def _weight(cell: AbstractCell) -> tuple[Tensor, Tensor | None]:
    """Return W_h, and the bias that stands within the GRU's product."""
    weights, H = cell.weights(), cell.hidden_size
    bias = weights.get("bias_hh") if recurrence(cell) == "gru" else None
    return weights["weight_hh"].contiguous(), None if bias is None else bias[2 * H :].contiguous()


def trial(device: torch.device) -> str:
    """Return why a first small sweep on a device failed or was wrong; "" if it went well.

    Args:
        device: where it runs.
    """
    cell = Elman(2, 17, device=device)
    with torch.no_grad():
        for weight in cell.weights().values():
            spread = torch.linspace(-0.3, 0.3, weight.numel(), device=device)
            weight.copy_(spread.view_as(weight))
        x = torch.linspace(-1, 1, 30, device=device).view(5, 3, 2)
        s_0, g = x.new_zeros(3, 17), x.new_ones(1, 5, 3, 17)
        try:
            tape = forward(cell, x, s_0)
            got = tape.s, *backward(cell, tape, g)
        except Exception as error:  # whatever Triton, its compiler or the driver raises
            told = str(error).strip().splitlines()
            return f"Triton fails on {device}: {type(error).__name__}: {(told or [''])[0]}"
        tape = sweep.forward(cell, x, s_0)
        want = tape.s, *sweep.backward(cell, tape, g)
        apart = max(float((a - b).abs().max()) for a, b in zip(got, want, strict=True))
    # TF32 rounds to 10 bits; anything worse is another kernel than this one.
    return "" if apart < 1e-2 else f"Triton's first sweep on {device} was wrong by {apart:.1g}."
