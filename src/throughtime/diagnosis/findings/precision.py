"""What is exactly 0 in this dtype and not in float64."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ...cells.base import rebind
from ...errors import ThroughTimeError
from ...kernels import losses
from ...tape import Tape
from ..evidence import Evidence
from ..finding import Finding
from ..look import Look, Seen

__all__ = ["underflow"]


def underflow(flow: Look) -> Iterator[Finding]:
    """Look for steps at which dE/ds_k is exactly 0, and take one row of them back in float64.

    Cost:
        one sweep of one row in float64, where there are such steps.
    """
    for seen in flow.seen:
        layer = seen.layer
        # Where the model's own code lies between the steps, no sweep takes them again.
        known = seen.cell is not None and layer.cell_alone
        if layer.tape.s.dtype == torch.float64 or not known or not seen.finite:
            continue
        step = torch.arange(1, layer.T + 1, device=seen.device)[:, None]
        inside = seen.steps & (step <= seen.last_entered)
        zero = inside & (layer.total_norms[1:] == 0)
        if not bool(zero.any()):
            continue
        row = int(zero.sum(0).argmax())
        last = int((step * zero)[:, row].max())
        exact = _in_float64(seen, row, last)
        if exact is not None and exact > 0:
            yield _finding(seen, row, last, exact, int(zero.any(1).sum()))


def _in_float64(seen: Seen, row: int, step: int) -> float | None:
    """Return ‖dE/ds_step‖ of one row in float64; None where the cell cannot be taken there."""
    tape = seen.layer.tape.of_rows([row])
    wide = Tape(
        tape.x.double(),
        tape.s.double(),
        tuple(kept.double() for kept in tape.saved),
        tape.active,
        tape.reset,
    )
    assert seen.cell is not None
    cell = rebind(seen.cell, {n: w.double() for n, w in seen.cell.weights().items()})
    g = seen.layer.entering[None, :, row : row + 1].double()
    try:
        found = losses(cell, wide, g).norms
    except (ThroughTimeError, RuntimeError):  # a step function with tensors of its own dtype
        return None
    assert found is not None
    return float(found[0, step, 0])


def _finding(seen: Seen, row: int, step: int, exact: float, steps: int) -> Finding:
    dtype = str(seen.layer.tape.s.dtype).removeprefix("torch.")
    return Finding(
        "underflow",
        "warning",
        seen.name,
        f"At {steps} of {seen.layer.T} steps of {seen.called} the gradient is exactly 0 in "
        f"{dtype}; at step {step} it would be {exact:.2g} in float64.",
        (
            Evidence(
                "gradient of that step in float64",
                exact,
                0.0,
                f"step {step}, row {row}",
                "eq. 10",
                True,
            ),
        ),
        "Nothing that far back is learned; a wider dtype shows the numbers, but only a path that "
        "does not shrink them helps.",
        "dtype",
    )
