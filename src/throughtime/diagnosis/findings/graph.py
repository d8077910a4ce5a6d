"""What hangs on what: layers and parameters that no loss reaches, states of an earlier batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ..evidence import Evidence
from ..finding import Finding
from ..look import Look, Seen

__all__ = ["no_gradient", "state_on_old_graph", "unreached"]


def no_gradient(flow: Look) -> Iterator[Finding]:
    """Look for layers into which no loss sends anything at all.

    A note where none of the layer's parameters wants a gradient, where another call of the same
    layer gets one (a target is detached by design), and where a weight after it begins at 0, as a
    read-out may: its first update ends that. A layer that only feeds such a layer is left
    out: it has the same cause.
    """
    silent = {seen.name for seen in flow.seen if _silent(seen)}
    learning = {_layer(seen) for seen in flow.seen if seen.name not in silent}
    for seen in flow.seen:
        if seen.name not in silent:
            continue
        fed = [other.name for other in flow.feeds(seen.name)]
        if fed and all(name in silent for name in fed):
            continue
        found = _unread(seen, fed, _in_graph(flow, seen))
        zeros = () if flow.facts is None else flow.facts.zeros
        if not seen.frozen and _layer(seen) in learning:
            found = _of_a_call(found)
        elif _in_graph(flow, seen) and zeros and bool(seen.layer.tape.s[1:].any()):
            found = _before_an_update(found, zeros[0])
        yield found
    for path, wanted in ({} if flow.facts is None else flow.facts.blind).items():
        if wanted:
            yield _blind(path, wanted)


def _layer(seen: Seen) -> str:
    """Return the name without the number of the call."""
    return seen.name.partition("@")[0]


def _of_a_call(found: Finding) -> Finding:
    """Return the note for a call whose layer learns by another call."""
    what = found.what.removesuffix(".") + "; another call of this layer gets some."
    remedy = f"Nothing, where this call is meant as a target. Else: {found.remedy}"
    return replace(found, severity="note", what=what, remedy=remedy)


def _before_an_update(found: Finding, weight: str) -> Finding:
    """Return the note for a layer that learns from the second update on."""
    what = f"{found.what.removesuffix('.')}, and {weight} is 0 in every entry."
    remedy = (
        f"Train for an update and examine it again: {weight} gets a gradient of its own. If it "
        "stays 0, start it from small random numbers."
    )
    return replace(found, severity="note", what=what, remedy=remedy)


def _blind(path: str, wanted: Sequence[str]) -> Finding:
    count = float(len(wanted))
    return Finding(
        "no-gradient",
        "warning",
        None,
        f"No loss sends any gradient into {path or 'the model'}: it ran without gradients, as "
        "under torch.no_grad(), and its parameters want one.",
        (Evidence("parameters that want a gradient", count, 0.0, wanted[0], "eq. 2", True),),
        "Take its call out of torch.no_grad() or inference_mode(); where it is not meant to learn, "
        "freeze it: requires_grad_(False).",
    )


def _silent(seen: Seen) -> bool:
    if bool(seen.enters.any()):
        return False
    return not bool((seen.layer.norms.nan_to_num(0) != 0).any())


def _in_graph(flow: Look, seen: Seen) -> bool:
    """Check whether the losses hang on the layer all the same, by its own parameters."""
    if flow.facts is None:
        return False
    return not flow.facts.reached.isdisjoint(flow.facts.parameters.get(seen.name, ()))


def _unread(seen: Seen, feeds: list[str], in_graph: bool) -> Finding:
    why = "nothing reads it, or what reads it is detached"
    remedy = (
        "Read what this layer puts out (of h_n, the last entry is the top layer's), and look for "
        ".detach(), .data, .item(), numpy or torch.no_grad() between it and the loss; else leave "
        "the layer out."
    )
    if in_graph:
        why = "what reads it passes back exactly 0"
        remedy = (
            "Look at what lies between it and the loss: an index that leaves it out (of h_n, the "
            "last entry is the top layer's), rounding, a clamp beyond its limits, a dead ReLU, a "
            "mask or a weight of 0, targets that are all ignored."
        )
    if feeds:
        why = f"{feeds[0]} reads it and passes back exactly 0"
        remedy = (
            f"Look at {feeds[0]} first: units that are saturated or dead pass no gradient on; then "
            "at factors of 0 between the two."
        )
    if seen.frozen:
        why += "; its own parameters are frozen, so it needs none"
    largest = float(seen.layer.total_norms.nan_to_num(0).max())
    return Finding(
        "no-gradient",
        "note" if seen.frozen else "error",
        seen.name,
        f"No loss sends any gradient into {seen.called}: {why}.",
        (Evidence("largest gradient of a step", largest, 0.0, "every step", "eq. 9", True),),
        remedy,
    )


def state_on_old_graph(flow: Look) -> Iterator[Finding]:
    """Look for initial states that were computed, with their graph, before the trace began."""
    for seen in flow.seen:
        if flow.facts is None or seen.name not in flow.facts.old_state:
            continue
        yield Finding(
            "state-on-old-graph",
            "error",
            seen.name,
            f"The initial state of {seen.called} still hangs on the graph of an earlier batch: "
            "backward() goes on into that batch, and fails where its graph is gone.",
            (Evidence("initial states from before the trace", 1.0, 0.0, "step 0", "eq. 9", True),),
            "Detach what is carried from batch to batch: state = state.detach(), both h and c of "
            "an LSTM, or let tt.stream carry it.",
        )


def unreached(flow: Look, *, shown: int = 4) -> Iterator[Finding]:
    """Look for parameters that want a gradient and get none.

    Parameters of layers that `no_gradient` names are left out.

    Args:
        flow: what is looked at.
        shown: how many names are spelled out.
    """
    if flow.facts is None or not flow.facts.unreached:
        return
    told = {
        name
        for seen in flow.seen
        if _silent(seen)
        for name in flow.facts.parameters.get(seen.name, ())
    }
    told |= {name for wanted in flow.facts.blind.values() for name in wanted}
    names = [name for name in flow.facts.unreached if name not in told]
    if not names:
        return
    which = ", ".join(names[:shown])
    which += f" and {len(names) - shown} more" if len(names) > shown else ""
    one = len(names) == 1
    yield Finding(
        "parameter-unreached",
        "warning",
        None,
        f"{len(names)} parameter{'' if one else 's'} that want{'s' * one} a gradient get"
        f"{'s' * one} none: {which}.",
        (Evidence("parameters without a gradient", float(len(names)), 0.0, which, "eq. 2", True),),
        f"Read the layer that {'it belongs' if one else 'they belong'} to, or take it out; of a "
        "wrapper that computes a weight from a raw one, compute it anew in every forward pass; "
        "freeze what is not meant to learn.",
    )
