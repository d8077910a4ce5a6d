"""What half precision makes 0 of a gradient that float32 would hold."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from ..evidence import Evidence, percent
from ..finding import Finding
from ..half_precision import HalfRange, range_of
from ..look import Look, Seen

__all__ = ["half_underflow"]

F16 = torch.float16
TINY = 2.0**-24  # its smallest number
AGAIN = "trace the scaled loss to see what is left"


def half_underflow(flow: Look, *, warn: float = 0.5, note: float = 0.05) -> Iterator[Finding]:
    """Look for a gradient whose terms float16 makes 0, in a step that ran in it, and a scale holds.

    Under autocast a layer of this package keeps the precision of its weights, so only what enters
    it from a readout in half precision counts; of others dE/ds_t too, and of those that torch's
    own module runs on a GPU, although inside a trace they keep theirs. bfloat16 makes 0 only what
    float32 hardly holds; and what no scale saves spans too many orders: both are the matter of
    `underflow` and `vanishes`. Whether a flow in float32 would fit says
    `throughtime.diagnosis.half_range`.

    Args:
        flow: what is looked at.
        warn: the share of the terms from which on it is a warning.
        note: and a note.

    Cost:
        one sweep in float64 for a layer whose weights are in half precision.
    """
    for seen in flow.seen:
        facts = flow.facts
        own = seen.layer.tape.s.dtype == F16
        around = facts is not None and facts.autocast == F16
        if not (own or around) or not seen.finite_back:
            continue
        if _all_gone(flow, seen):
            yield _gone(seen)
            continue
        wide = not own and facts is not None and seen.name in facts.wide
        found = range_of(seen, F16, inside=not wide, lost=_made_zero(seen))
        if found.zero >= note and found.left <= found.zero / 2:
            beside = range_of(seen, torch.bfloat16, inside=not wide)
            yield _finding(seen, found, beside, warn, own)


def _made_zero(seen: Seen, *, each: int = 8) -> int:
    """Return how many entries of g_t the run made 0 already.

    They are 0 beside others of the same step and row that are not. So are those that dropout or an
    unread unit makes 0; but where float16 does it, some entries are just its smallest number.

    Args:
        seen: the layer.
        each: how many that became 0 one entry at the smallest number can stand for.
    """
    sizes = seen.layer.entering[seen.enters].abs().double()
    smallest = int((sizes == TINY).sum())
    return min(int((sizes == 0).sum()), each * smallest)


def _all_gone(flow: Look, seen: Seen) -> bool:
    """Check whether nothing arrives at a layer that a loss hangs on by the graph."""
    facts = flow.facts
    if facts is None or bool(seen.enters.any()) or bool((seen.layer.total_norms[1:] != 0).any()):
        return False
    own = facts.parameters.get(seen.name, ())
    return bool(own) and not seen.frozen and not set(own) & set(facts.unreached)


def _gone(seen: Seen) -> Finding:
    return Finding(
        "half-underflow",
        "warning",
        seen.name,
        f"All that the losses send into {seen.called} is exactly 0, although they hang on it: "
        "the gradient was too small for float16 on its way from the loss, or a factor there is 0.",
        (_evidence("share of the terms that are 0", 1.0, 0.5, "float16", True),),
        f"Scale the loss by a power of two before backward(): "
        f'torch.amp.GradScaler("{seen.device.type}") begins with 2^16; {AGAIN}. Or take bfloat16, '
        "which has float32's range.",
    )


def _finding(seen: Seen, found: HalfRange, beside: HalfRange, warn: float, own: bool) -> Finding:
    name = "float16"
    return Finding(
        "half-underflow",
        "warning" if found.zero >= warn else "note",
        seen.name,
        f"{percent(found.zero)} of the terms of the gradient of {seen.called} are too small for "
        f"{name}, which makes them 0.",
        (
            _evidence("share of the terms that become 0", found.zero, warn, name, True),
            _evidence("share below the smallest normal number", found.coarse, None, name),
            _evidence("share of the terms that become 0", beside.zero, None, "bfloat16"),
            _evidence("largest term, those of dE/dW among them", found.largest, None, "unscaled"),
            _evidence("loss scale that holds them", found.scale, None, name),
            _evidence("share that is 0 at that scale", found.left, None, name),
        ),
        _remedy(seen, found, own),
        "dtype" if own else None,
    )


def _remedy(seen: Seen, found: HalfRange, own: bool) -> str:
    power = f"2^{round(math.log2(found.scale))}"
    held = f"the largest term is then {found.largest * found.scale:.3g}, below 65504"
    rest = f", and {percent(found.left)} of the terms are still 0" if found.left > 0 else ""
    how = (
        f"multiply the loss by {power} before backward() and divide the gradients in float32"
        if own
        else f'torch.amp.GradScaler("{seen.device.type}", init_scale={found.scale:.0f})'
    )
    wider = "keep the weights in float32" if own else "autocast to bfloat16, with float32's range"
    return f"Scale the loss by {power}: {how}; {held}{rest}; {AGAIN}. Or {wider}."


def _evidence(
    what: str, value: float, threshold: float | None, where: str, decides: bool = False
) -> Evidence:
    return Evidence(what, value, threshold, where, "eq. 10", decides)
