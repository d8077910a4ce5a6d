"""Units and gates at the flat ends of their range, by the input alone or by what is inside."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from ...cells import Elman
from ..evidence import Evidence
from ..finding import Finding
from ..look import Look, Seen
from .squashed import Block, blocks, sample

__all__ = ["input_scale", "saturated"]

# |W_x x_t| from which on a ReLU's argument is large; at a sigmoid's it is flat.
LARGE = 6.0


def input_scale(
    flow: Look, *, warn: float = 0.5, note: float = 0.25, large: float = 3.0
) -> Iterator[Finding]:
    """Look for input that alone, by W_x x_t, drives units or gates into saturation.

    An entry counts where |W_x x_t| is beyond the limit (3 for tanh, 6 for a sigmoid: a slope below
    1 % of the steepest) and the unit or gate is in fact saturated there. A ReLU has no such end:
    there W_x x_t beyond 6 alone counts, in a layer that no other one feeds.

    Args:
        flow: what is looked at.
        warn: the share of a gate's entries from which on it is a warning.
        note: and a note.
        large: the root mean square of a feature from which on the input is to blame, and not
            weights that are large themselves.
    """
    for seen in flow.seen:
        if not _is_large(seen, large):
            continue
        found = _by_input(seen)
        if found is None:
            continue
        share, block = found
        if share >= note:
            yield _scale(seen, share, block, warn)


def _is_large(seen: Seen, large: float) -> bool:
    """Check whether any feature of the input is large; an input with NaN is not."""
    return large <= seen.size < float("inf")


def _by_input(seen: Seen) -> tuple[float, Block | None] | None:
    """Return the largest share over the gates, and that gate; None where it cannot be told."""
    if "by input" not in seen.known:
        seen.known["by input"] = _measured(seen)
    return seen.known["by input"]


def _measured(seen: Seen) -> tuple[float, Block | None] | None:
    shares = [
        (float(((alone.abs() > block.limit()) & block.flat()).float().mean()), block)
        for block in blocks(seen)
        if (alone := block.alone()) is not None
    ]
    if shares:
        return max(shares, key=lambda pair: pair[0])
    if _is_relu(seen):  # what layers below it give may have grown through their own recurrence
        return None if seen.fed_by else (_far_from_zero(seen), None)
    return _from_outside(seen)


def _is_relu(seen: Seen) -> bool:
    return type(seen.cell) is Elman and seen.cell.nonlinearity == "relu"


def _far_from_zero(seen: Seen) -> float:
    """Return the share of the entries at which W_x x_t is beyond 6, where a ReLU's usual is 1."""
    assert seen.cell is not None
    alone = sample(seen, seen.layer.tape.x) @ seen.cell.weights()["weight_ih"].T
    return float((alone.abs() > LARGE).float().mean())


def _from_outside(
    seen: Seen, *, large: float = 30.0, faint: float = 1e-3
) -> tuple[float, None] | None:
    """Judge a step that is not known from inside: large input that the state does not answer to.

    Args:
        seen: the layer.
        large: the root mean square of a feature from which on it is large.
        faint: the relative effect ‖dE/dx‖‖x‖ / ‖dE/ds‖‖s‖ below which the state does not answer.
    """
    tape = seen.layer.tape
    known = seen.cell is None or seen.cell.has_preact
    if known or not tape.x.shape[-1] or not seen.finite:
        return None
    if seen.size < large:
        return None
    on_x = seen.layer.input_norms() * tape.x.norm(dim=-1)
    on_s = seen.layer.total_norms[1:] * tape.s[1:].norm(dim=-1)
    there = seen.steps & (on_s > 0)
    if not bool(there.any()):
        return None
    return float((on_x < faint * on_s)[there].float().mean()), None


def _scale(seen: Seen, share: float, block: Block | None, warn: float) -> Finding:
    x = sample(seen, seen.layer.tape.x).double()
    mean, scale = x.mean(0), x.std(0, correction=0)
    worst = int((mean.square() + scale.square()).argmax())
    m, s = float(mean[worst]), float(scale[worst])
    what = "the state" if block is None else f"the {block.gate.name}"
    does = f"takes ReLU units beyond {LARGE:g}" if _is_relu(seen) else f"saturates {what}"
    feature = f"feature {worst}" if len(mean) > 1 else "its one feature"
    return Finding(
        "input-scale",
        "warning" if share >= warn else "note",
        seen.name,
        f"The input of {seen.called} alone {does} at {100 * share:.0f} % of all entries: "
        f"{feature} has mean {m:.4g} and scale {s:.4g}.",
        (
            Evidence("share taken there by the input alone", share, warn, what, "eq. 1", True),
            Evidence("mean of the input", m, None, f"feature {worst}", "eq. 1"),
            Evidence("standard deviation of the input", s, None, f"feature {worst}", "eq. 1"),
        ),
        "Standardise the input, each feature to mean 0 and scale 1 with statistics from the "
        "training data; scale the target alike where it is of the same kind.",
        "standardise",
    )


def saturated(
    flow: Look,
    *,
    warn: float = 0.5,
    note: float = 0.25,
    stays: float = 0.7,
    large: float = 3.0,
    least: int = 10,
) -> Iterator[Finding]:
    """Look for units or gates that stay at a flat end that does harm, not by the input alone.

    A forget gate that stays open does none, nor does an output gate that is only nearly closed
    while the cell goes on; gates that all swing from one end to the other do. Layers whose input is
    at fault are left to `input_scale`.

    Args:
        flow: what is looked at.
        warn: the share of a gate's units from which on it is a warning.
        note: and a note.
        stays: at which share of the steps and rows a unit must be there.
        large: as in `input_scale`.
        least: at how many steps of rows a unit must have been seen.
    """
    for seen in flow.seen:
        if not seen.finite_s or int(seen.steps.sum()) < least:
            continue
        by_input = _by_input(seen) if _is_large(seen, large) else None
        if by_input is not None and by_input[0] >= warn:
            continue
        shares = [(_stuck(block, stays), block) for block in blocks(seen) if block.may_stay(stays)]
        gates = [block for block in blocks(seen) if block.gate.squash == "sigmoid"]
        if len(gates) > 1:
            shares.append(_swinging(gates, stays))
        if not shares:
            continue
        stuck, block = max(shares, key=lambda pair: float(pair[0].float().mean()))
        share = float(stuck.float().mean())
        if share >= note:
            yield _saturated(seen, share, stuck, block, warn)


def _stuck(block: Block, stays: float) -> Tensor:
    return block.harmful().float().mean(0) >= stays


def _swinging(gates: list[Block], stays: float, *, each: float = 0.1) -> tuple[Tensor, Block]:
    """Return the gate of which fewest units swing from one flat end to the other, and which do.

    A gate that stays at one end may do so by design; one that is at both ends in turn, and hardly
    ever between them, passes no gradient to its weights.

    Args:
        gates: the cell's gates.
        stays: at which share of the steps and rows a unit must be at an end.
        each: and at each of the two ends.
    """

    def swings(block: Block) -> Tensor:
        flat, high = block.flat(), block.values > 0.5
        ends = [(flat & side).float().mean(0) for side in (high, ~high)]
        return (ends[0] + ends[1] >= stays) & (ends[0] >= each) & (ends[1] >= each)

    found = [(swings(block), block) for block in gates]
    return min(found, key=lambda pair: float(pair[0].float().mean()))


def _saturated(seen: Seen, share: float, stuck: Tensor, block: Block, warn: float) -> Finding:
    by_bias = by_input = 0.0
    if block.bias is not None:
        by_bias = float((block.bias.abs() > block.limit())[stuck].float().mean())
    alone = block.alone()
    if alone is not None:
        by_input = float((alone.abs() > block.limit())[:, stuck].float().mean())
    if by_bias > 0.5:
        why = "their biases hold them there, not the input"
        remedy = "Start from small biases (a forget bias of 1 or chrono biases, not more)."
    elif by_input > 0.5:
        why = "their weights W_x are too large for an input of this size"
        remedy = "Start from smaller W_x (Xavier's bound), or put a layer norm into the cell."
    else:
        why = "the recurrence holds them there, not the input"
        remedy = (
            "Lower the gain of W_h: start from an orthogonal one, or put a layer norm into the "
            "cell; and a lower learning rate, where training made them so."
        )
    stay = "saturated"
    if block.gate.out:
        stay, why = "shut", f"hardly anything of the cell is put out, and {why}"
    return Finding(
        "saturated",
        "warning" if share >= warn else "note",
        seen.name,
        f"In {seen.called} {100 * share:.0f} % of the {block.gate.name} stay {stay} at nearly "
        f"every step and row; {why}.",
        (
            Evidence("share that stays saturated", share, warn, block.gate.name, "eq. 4", True),
            Evidence(
                "share of these whose bias alone does it", by_bias, None, block.gate.name, "eq. 1"
            ),
        ),
        remedy,
        None if max(by_bias, by_input) > 0.5 else "orthogonal",
    )
