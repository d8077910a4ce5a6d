"""Numbers that stop being finite inside a layer: in its states, or on the backward pass."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ...flow.nonfinite import NonFinite, Terms, all_finite, in_terms, look
from ..evidence import Evidence
from ..finding import Finding
from ..look import Look, Seen
from .place_names import nonfinite_evidence, nonfinite_kind, step_of

__all__ = ["gradient_broken", "state_broken"]


def state_broken(flow: Look) -> Iterator[Finding]:
    """Look for states that stop being finite although weights, input and s_0 are (eq. 10)."""
    for seen in flow.seen:
        if seen.finite_s:
            continue
        spoiled = not all_finite(seen.s[0]) or not seen.finite_x
        if spoiled or not seen.finite_weights or (flow.facts and flow.facts.nonfinite):
            return
        bad = look(seen.s, "forward")
        assert bad is not None
        yield _overflowing(seen, bad)
        return  # what comes later follows from it


def _overflowing(seen: Seen, bad: NonFinite) -> Finding:
    s = seen.s
    before = float(s[bad.step - 1, bad.row].abs().max())
    at = f"{step_of(seen, bad.step)}, row {bad.row}, unit {bad.unit}"
    size = Evidence("largest |s| one step before", before, None, f"step {bad.step - 1}", "eq. 10")
    blind = not seen.layer.tape.x.shape[-1]
    if bad.kind == "nan":
        what = (
            f"The state of {seen.called} becomes NaN at {at}, from a finite state, and "
            + ("what goes into a marked step is not seen" if blind else "finite weights and input")
            + ": the step itself makes NaN"
            + (", or its input is." if blind else " of finite numbers.")
        )
        remedy = "Look for 0/0, the logarithm or root of a negative number, or inf − inf there."
    else:
        what = f"The states of {seen.called} overflow: the first inf is at {at}."
        remedy = (
            "Use a saturating nonlinearity, normalise the state, or lower the gain of W_h; "
            "clipping gradients does not help a forward overflow."
        )
    fix = "orthogonal" if bad.kind == "inf" else None
    evidence = (nonfinite_evidence("state s_t", bad, at), size)
    return Finding("state-overflow", "error", seen.name, what, evidence, remedy, fix)


def gradient_broken(flow: Look) -> Iterator[Finding]:
    """Look for what stops being finite on the backward pass, all before it being finite (eq. 10).

    The layers are taken as the backward pass takes them, the last one first; what a layer hands on
    to those before it is their cause. An adjoint that overflows is told from a derivative that is
    inf or NaN itself by taking the step back once more with the adjoint scaled to 1.
    """
    if not flow.finite_forward or not flow.finite_losses:
        return
    for seen in reversed(flow.seen):
        found = _of_layer(seen)
        if found is not None:
            yield found
            return


def _of_layer(seen: Seen) -> Finding | None:
    layer = seen.layer
    if seen.finite and all_finite(layer.entering_norms):
        return _in_the_weights(seen)
    bad = seen.bad_adjoint
    sent = (~layer.entering_norms.isfinite()).any(1).nonzero().flatten()
    if len(sent) and (bad is None or int(sent[-1]) + 1 >= bad.step):
        return _sent(seen, int(sent[-1]) + 1)
    return None if bad is None else _on_the_way(seen, bad)


def _sent(seen: Seen, step: int) -> Finding:
    entering = seen.layer.entering_norms[step - 1]
    row = int((~entering.isfinite()).nonzero()[0])
    kind = "nan" if bool(entering[row].isnan()) else "inf"
    bad = NonFinite("backward", step, row, 0, kind)
    at = f"{step_of(seen, step)}, row {row}"
    if all_finite(seen.layer.entering):
        return _too_large(seen, bad, at, float(seen.layer.entering.abs().max()))
    return Finding(
        "loss-gradient-nonfinite",
        "error",
        seen.name,
        f"The losses are finite, but the gradient that they send into {seen.called} is "
        f"{nonfinite_kind(bad)} at {at}.",
        (nonfinite_evidence("gradient g_t from the losses", bad, at),),
        "Look at what lies between this layer and the loss: a root, a norm or a standard deviation "
        "of 0, a logarithm of 0, a division, or a factor so large that it overflows. Add a small "
        "number under the root, or scale the loss down.",
    )


def _on_the_way(seen: Seen, bad: NonFinite) -> Finding:
    layer = seen.layer
    after = layer.adjoint()[bad.step + 1]
    at = f"{step_of(seen, bad.step + 1)}, row {bad.row}"
    if _derivative_broken(seen, bad.step + 1, after):
        return _derivative(seen, bad, at)
    largest = float(layer.entering_norms.max())
    arrived = float(after[bad.row].abs().max())
    growth = arrived / largest if largest > 0 else float("inf")
    top = torch.finfo(layer.tape.s.dtype).max
    evidence = [
        nonfinite_evidence("adjoint dE/ds_t", bad, f"step {bad.step}, row {bad.row}"),
        Evidence("largest ‖g_t‖ that a loss sends", largest, None, "all steps", "eq. 9"),
        Evidence("growth up to there", growth, None, f"step {bad.step + 1}", "eq. 9"),
    ]
    if growth < 100 and largest > top**0.5:
        return _too_large(seen, bad, f"step {bad.step}, row {bad.row}", largest)
    what = (
        f"The gradient of {seen.called} overflows on its backward pass: it grows from step to "
        f"step, and the first inf or NaN is at step {bad.step}, row {bad.row}."
    )
    remedy = (
        "Lower the gain of W_h (start from an orthogonal one) or cut the sequence; clipping the "
        "finished gradient comes too late, because inf cannot be scaled."
    )
    return Finding(
        "gradient-overflow", "error", seen.name, what, tuple(evidence), remedy, "orthogonal"
    )


def _too_large(seen: Seen, bad: NonFinite, at: str, largest: float) -> Finding:
    """Return the finding where what the losses send is at the edge of the dtype by itself."""
    dtype = str(seen.layer.tape.s.dtype).removeprefix("torch.")
    return Finding(
        "loss-gradient-nonfinite",
        "error",
        seen.name,
        f"The losses are finite, but what they send into {seen.called} is so large, {largest:.2g}, "
        f"that it overflows {dtype} at {at} without growing on its backward pass.",
        (
            nonfinite_evidence("norm dE/ds_t", bad, at),
            Evidence("largest gradient that a loss sends", largest, None, "all steps", "eq. 10"),
        ),
        "Scale the loss down: take means instead of sums, and look for a huge factor in it.",
    )


def _derivative_broken(seen: Seen, step: int, delta: Tensor) -> bool:
    """Check whether a step's derivative is not finite for an adjoint of size 1 either."""
    size = delta.abs().amax()
    if seen.cell is None:
        return float(size) < torch.finfo(delta.dtype).max ** 0.5
    if not float(size) > 0:
        return True
    with torch.no_grad():
        found = seen.cell.vjp(seen.layer.tape.at(step), (delta / size)[None])
    return not all(all_finite(part) for part in found)


def _derivative(seen: Seen, bad: NonFinite, at: str) -> Finding:
    return Finding(
        "derivative-nonfinite",
        "error",
        seen.name,
        f"A derivative of the step of {seen.called} is {nonfinite_kind(bad)} at {at}, although the "
        "state and the gradient that arrives there are finite.",
        (nonfinite_evidence("derivative of a step", bad, at),),
        "Look inside the cell: a root, a norm, a division or a power at 0 has a value there and "
        "no derivative. Add a small number under it, or use torch.where on its argument.",
    )


def _in_the_weights(seen: Seen) -> Finding | None:
    """Look at the terms of dE/dW and dE/dx, where everything up to the adjoints is finite."""
    if seen.cell is None:
        return None
    bad = in_terms(seen.layer.terms)
    if bad is None:
        return None
    where = "their sum over steps" if bad.step == 0 else step_of(seen, bad.step)
    adjoint = seen.layer.preact_adjoints
    size = adjoint.nan_to_num(0).abs().amax().clamp(min=torch.finfo(adjoint.dtype).tiny)
    scaled = Terms(seen.cell, seen.layer.tape, adjoint / size).whole
    if not all(all_finite(g) for g in scaled.values()):
        return _derivative(seen, bad, where)
    return Finding(
        "gradient-overflow",
        "error",
        seen.name,
        f"The gradient of a weight or of the input of {seen.called} overflows in {where}, although "
        "states and adjoints are finite.",
        (nonfinite_evidence("term of dE/dW or dE/dx", bad, where),),
        "Scale the loss or the input down: the product of the two is too large for this dtype.",
    )
