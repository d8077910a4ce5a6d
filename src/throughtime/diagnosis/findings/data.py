"""What was not finite before the layer ran: weights, input, initial state."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from ...flow.nonfinite import NonFinite, look
from ..finding import Finding
from ..look import Look, Seen
from .place_names import at_input, nonfinite_evidence, nonfinite_kind

__all__ = ["before"]


def before(flow: Look) -> Iterator[Finding]:
    """Look for parameters, inputs and initial states that are inf or NaN.

    A layer's input is named only where no layer before it has bad states: else it is that one's
    doing. Inputs of steps that a row does not take, and states that a reset zeroes
    before the first step, do not count.
    """
    yield from _weights(flow)
    for seen in flow.seen:
        yield from _input(seen)
        yield from _initial_state(seen)
        if not seen.finite_s:
            return


def _weights(flow: Look) -> Iterator[Finding]:
    names = list(() if flow.facts is None else flow.facts.nonfinite)
    bad, value = None, None
    for seen in flow.seen:
        own = {} if seen.cell is None or seen.finite_weights else seen.cell.weights()
        for name, weight in own.items():
            found = look(weight.detach().reshape(1, 1, -1), "weight")
            if found is not None and bad is None:
                bad, value = found, f"{seen.called}, {name}, entry {found.unit}"
    if bad is None and not names:
        return
    if not names:
        assert bad is not None and value is not None
        yield _computed(bad, value)
        return
    bad = bad or NonFinite("weight", 0, 0, 0, "nan")
    which = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    yield Finding(
        "weight-nonfinite",
        "error",
        None,
        f"Before this run began, {len(names)} parameter{'s' * (len(names) > 1)} held inf or NaN: "
        f"{which}. The update before made {'them' if len(names) > 1 else 'it'} so, not this batch.",
        (nonfinite_evidence("parameter", bad, value or names[0]),),
        "Go back to the last weights that were finite, and examine the batch of the update that "
        "followed; clip the gradient's norm, skip updates whose gradient is not finite, or lower "
        "the learning rate.",
    )


def _computed(bad: NonFinite, where: str) -> Finding:
    """Return the finding for a weight that is computed in the forward pass, of finite parameters.

    Args:
        bad: its first entry that is not finite.
        where: the layer, the weight and the entry.
    """
    return Finding(
        "weight-nonfinite",
        "error",
        None,
        f"A weight holds inf or NaN: {where}. Every parameter is finite, so what computes it from "
        "them, as a parametrization does, makes it so.",
        (nonfinite_evidence("weight", bad, where),),
        "Look at what the weight is computed from: a weight norm or spectral norm of a row of "
        "zeros divides 0 by 0. Start from random weights, or add a small number to the norm.",
    )


def _input(seen: Seen) -> Iterator[Finding]:
    x = seen.layer.tape.x
    bad = None if seen.finite_x else look(x, "input")
    if bad is None:
        return
    number = nonfinite_kind(x[bad.step, bad.row, bad.unit])
    bad = bad._replace(step=bad.step + 1)
    rows = int((~x.isfinite()).any(-1).any(0).sum())
    where = at_input(seen, bad)
    yield Finding(
        "input-nonfinite",
        "error",
        seen.name,
        f"The input of {seen.called} is {number} at {where}, "
        + (f"the first of {rows} rows that hold" if rows > 1 else "in the only row that holds")
        + " inf or NaN.",
        (nonfinite_evidence("input x_t", bad, where),),
        "Clean the data before the model: drop or fill what is missing, and keep logarithms and "
        "quotients away from 0. Check batches with torch.isfinite(x).all().",
    )


def _initial_state(seen: Seen) -> Iterator[Finding]:
    tape = seen.layer.tape
    if seen.finite_s:
        return
    s_0: Tensor = seen.s[:1]
    if tape.reset is not None:
        s_0 = s_0.masked_fill(tape.reset[:1, :, None], 0)
    bad = look(s_0, "forward")
    if bad is None:
        return
    rows = int((~s_0[0].isfinite()).any(-1).sum())
    where = f"row {bad.row}, unit {bad.unit}"
    yield Finding(
        "initial-state-nonfinite",
        "error",
        seen.name,
        f"The initial state of {seen.called} is {nonfinite_kind(bad)} in {rows} of "
        f"{seen.layer.B} rows before the first step: it was carried over from an earlier batch, "
        "or computed so.",
        (nonfinite_evidence("initial state s_0", bad, where),),
        "Begin from zeros again, and examine the batch that left this state; drop a carried state "
        "that is not finite. Where it is computed, look for a division by 0 there.",
    )
