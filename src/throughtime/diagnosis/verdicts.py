"""From measured norms to a verdict for each layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ..errors import InputTypeError, InputValueError
from ..flow import LayerView, NonFinite
from ..flow.view import gain
from .advice import Found, advice
from .diagnoses import Diagnoses
from .evidence import Diagnosis, Evidence, Verdict
from .per_row import Rows, median_by_lag
from .total import Total, by_step, total

__all__ = ["diagnose"]

# Below this share of the rows, VANISHING is evidence beside a HEALTHY layer: the others teach it.
SHARE = 0.05


def diagnose(
    flow: Mapping[str, LayerView], *, fraction: float = 0.01, growth: float = 100.0
) -> Diagnoses:
    """Judge each layer from what was measured; the bounds stand beside and never decide (eq. 8).

    Each batch row is judged by itself, and `Diagnosis.shares` says for which share of the rows
    each verdict holds. The layer's verdict is the worst that holds: NONFINITE or EXPLODING in any
    row, VANISHING in 5 % of the rows or more, else HEALTHY.

    What is judged depends on how many losses there are, not on how the flow was split:

    - Several losses are as many questions. p(ℓ) is the row's median over the losses of the norm at
      lag ℓ, relative to lag 0; L is the row's longest lag. That a step is reached by nearer losses
      stands beside as evidence, and in the advice.
    - One loss, a scalar or a vector of one entry, is judged by its whole gradient dE/ds_k. It is
      compared with what enters the layer at k or later: with the largest, to see whether it
      vanishes, and with the sum, to see whether it explodes.

    In this order:

    - NONFINITE: a state or an adjoint is inf or NaN (eq. 10).
    - EXPLODING: the relative norm reaches ``growth`` somewhere.
    - VANISHING: it is below ``fraction`` at the row's beginning, or, for one loss, at the end of a
      stretch in which nothing enters; or it falls, over the far half, at a rate at which
      ``fraction`` is reached within L steps. The rate sees through a transient: a non-normal W_h
      can raise the norm for some steps although every eigenvalue lies below 1.
    - VANISHING, too: no loss sends any gradient into the layer at all.
    - HEALTHY: none of these.

    What ``window=`` left out is not taken to be healthy: for lags beyond the window, three losses
    of each row are followed to its beginning.

    Args:
        flow: what `throughtime.Trace.flow` returned.
        fraction: what share of the lag-0 norm still counts as arriving.
        growth: what multiple of the lag-0 norm counts as exploding.

    Returns:
        A `Diagnosis` for each layer's name, in a dict that prints as a short table.

    Raises:
        InputTypeError: ``flow`` is no flow.
        InputValueError: not 0 < fraction < 1 < growth.
        GraphError: ``window=`` left lags out, and the graph between the layers was freed by a
            ``backward()``, so that no loss can be followed further.

    Cost:
        one sweep for the total adjoint, three more under ``window=``, and for an Elman cell one
        SVD of W_h.

    Example:
        >>> model = torch.nn.RNN(3, 64)
        >>> with tt.trace(model) as trace:
        ...     loss = model(torch.randn(100, 2, 3))[0][-1].pow(2).mean()
        >>> tt.diagnose(trace.flow(loss))["l0"].verdict.name
        'VANISHING'
    """
    if not isinstance(flow, Mapping):
        raise InputTypeError(
            f"flow must be what trace.flow(losses) returned; got {type(flow).__name__}."
        )
    if not 0 < fraction < 1 < growth:
        raise InputValueError(
            f"thresholds must be 0 < fraction < 1 < growth; got {fraction}, {growth}."
        )
    return Diagnoses({name: _judge(name, layer, fraction, growth) for name, layer in flow.items()})


def _judge(name: str, layer: LayerView, fraction: float, growth: float) -> Diagnosis:
    bad = layer.first_nonfinite
    broken = torch.zeros(layer.B, dtype=torch.bool, device=layer.norms.device)
    if bad is not None:
        broken = _broken(layer, bad)
    whole = total(layer, fraction)
    rows = by_step(whole, fraction) if layer.one_loss else median_by_lag(layer, fraction, broken)
    if not bool(rows.reached.any()):
        # Losses that are all 0 at their own step may still enter before it.
        rows = by_step(whole, fraction)
    holds = _row_verdicts(rows, broken, fraction, growth)
    judged = int(sum(where.sum() for where in holds.values()))
    shares = {v: int(where.sum()) / judged for v, where in holds.items() if bool(where.any())}
    verdict = _worst(shares)
    group = holds[verdict]
    covered = _coverage(whole, group, fraction)
    found = Found(verdict, rows, group, shares, covered is not None and covered.value >= fraction)
    if bad is not None:
        what = NUMBERS[bad.direction]
        value = math.inf if bad.kind == "inf" else math.nan
        where = f"step {bad.step}, row {bad.row}, unit {bad.unit}"
        what = f"first non-finite {what}, {bad.direction}"
        decided = [Evidence(what, value, math.inf, where, "eq. 10", True)]
    elif not bool(rows.reached.any()):
        largest = float(layer.total_norms.nan_to_num(0).max())
        decided = [
            Evidence("largest gradient of a step", largest, 0.0, "every step", "eq. 9", True)
        ]
    else:
        decided = _decided(rows, verdict, group, fraction, growth)
    beside = [
        *_shares(verdict, holds, judged),
        *([] if covered is None or layer.one_loss else [covered]),
        *_beside(layer, found, fraction),
    ]
    words = advice(found, layer, fraction)
    return Diagnosis(name, verdict, (*decided, *beside), words, shares)


def _broken(layer: LayerView, bad: NonFinite) -> Tensor:
    """Return the rows (B,) that hold inf or NaN; all of them where it is in what they share."""
    tensors = (layer.tape.x, layer.tape.s, layer.adjoint())
    broken = torch.stack([(~t.isfinite()).any(-1).any(0) for t in tensors]).any(0)
    return broken | (bad.direction in ("weight", "gradient"))


# What the first non-finite number is called, by the direction in which it was met.
NUMBERS = {
    "forward": "state s_t",
    "input": "input x_t",
    "weight": "weight",
    "backward": "adjoint dE/ds_t",
    "gradient": "term of dE/dW or dE/dx",
}


def _row_verdicts(
    rows: Rows, broken: Tensor, fraction: float, growth: float
) -> dict[Verdict, Tensor]:
    """Return the rows (B,) in which each verdict holds, the worst verdict first.

    Rows that no loss reaches are left out, unless there is no other: such a layer learns nothing.
    """
    reached = rows.reached & ~broken
    explodes = reached & (rows.top >= growth)
    vanishes = reached & ~explodes & ((rows.far < fraction) | (rows.slope < rows.limit))
    if not bool((reached | broken).any()):
        vanishes = ~reached
    return {
        Verdict.NONFINITE: broken,
        Verdict.EXPLODING: explodes,
        Verdict.VANISHING: vanishes,
        Verdict.HEALTHY: reached & ~explodes & ~vanishes,
    }


def _worst(shares: Mapping[Verdict, float]) -> Verdict:
    """Return the layer's verdict."""
    for verdict in (Verdict.NONFINITE, Verdict.EXPLODING):
        if verdict in shares:
            return verdict
    few = Verdict.HEALTHY in shares and shares.get(Verdict.VANISHING, 0.0) < SHARE
    return Verdict.HEALTHY if few else Verdict.VANISHING


def _decided(
    rows: Rows, verdict: Verdict, group: Tensor, fraction: float, growth: float
) -> list[Evidence]:
    """Return the numbers of a typical row among those in which the verdict holds."""
    by_size = group & (rows.far < fraction)
    if verdict is Verdict.EXPLODING:
        row = _typical(rows.top, group)
    elif verdict is Verdict.VANISHING and not bool(by_size.any()):
        row = _typical(rows.slope, group)
    else:
        row = _typical(rows.far, by_size if verdict is Verdict.VANISHING else group)
    first, last = rows.half[:, row].tolist()
    unit, names = rows.unit, NAMES[rows.unit]
    top = Evidence(
        names[0], float(rows.top[row]), growth, f"{unit} {int(rows.top_at[row])}", "eq. 9"
    )
    far = Evidence(
        names[1], float(rows.far[row]), fraction, f"{unit} {int(rows.far_at[row])}", "eq. 9"
    )
    span = f"{unit}s {first} to {last}"
    fall = Evidence(names[2], float(rows.slope[row]), float(rows.limit[row]), span, "eq. 9")
    if verdict is Verdict.EXPLODING:
        return [replace(top, decides=True), far, fall]
    if verdict is Verdict.VANISHING and far.value < fraction:
        return [replace(far, decides=True), top, fall]
    if verdict is Verdict.VANISHING:
        return [replace(fall, decides=True), far, top]
    return [replace(evidence, decides=True) for evidence in (far, top, fall)]


# What top, far and fall are called, by the unit in which they were measured.
NAMES = {
    "lag": (
        "largest gradient, compared with its start",
        "gradient at the far end, compared with its start",
        "change per step back (natural logarithm)",
    ),
    "step": (
        "largest gradient of a step, compared with all that entered since",
        "gradient at the far end, compared with the largest that entered since",
        "change per step back (natural logarithm)",
    ),
}


def _typical(values: Tensor, group: Tensor) -> int:
    """Return the row of the group that has the median value, one that is a row's own."""
    rows = group.nonzero().flatten()
    return int(rows[values[rows].argsort()[(len(rows) - 1) // 2]])


def _shares(verdict: Verdict, holds: Mapping[Verdict, Tensor], judged: int) -> list[Evidence]:
    """Return the share of the rows for each verdict, where not all rows have the same."""
    counts = {v: int(where.sum()) for v, where in holds.items() if bool(where.any())}
    if len(counts) < 2:
        return []
    return [
        Evidence(
            f"share of the rows that are {v.name}",
            count / judged,
            None,
            f"{count} of {judged} rows",
            "eq. 10" if v is Verdict.NONFINITE else "eq. 9",
        )
        for v, count in sorted(counts.items(), key=lambda item: item[0] is not verdict)
    ]


def _coverage(whole: Total, group: Tensor, fraction: float) -> Evidence | None:
    """Return the least that any step of these rows gets from all losses together.

    The initial state is no step: no weight led to it.
    """
    each = torch.arange(len(whole.reach), device=group.device)[:, None]
    steps = group & (each > whole.initial) & ~whole.reach.isnan()
    least = torch.where(steps, whole.reach, torch.inf).amin(1)
    k = int(least.argmin())
    if not math.isfinite(float(least[k])):
        return None
    name = "least that a step gets of all losses together, compared with the largest that entered"
    return Evidence(f"{name} since", float(least[k]), None, f"step {k}", "eq. 9")


def _beside(layer: LayerView, found: Found, fraction: float) -> list[Evidence]:
    """Return what stands beside the verdict: the horizon and, where there is one, the bound."""
    rows, evidence = found.rows, []
    L = int(rows.length.max())
    if rows.unit == "lag":
        name = f"horizon: steps back with at least {fraction:g} of the gradient"
        where = f"lags 0 to {L}"
        evidence.append(Evidence(name, float(found.horizon(layer, fraction)), None, where, "eq. 9"))
    if rows.followed:
        name = f"losses of each row followed beyond the window of {rows.window}"
        where = f"lags {rows.window + 1} to {L}"
        evidence.append(Evidence(name, float(rows.followed), None, where, "eq. 9"))
    base = gain(layer)
    if base is None:
        return evidence
    evidence.append(Evidence("β_W·β_f", base, None, "every step", "eq. 6"))
    exponent = L * math.log(base) if base > 0 else -math.inf
    bound = math.exp(exponent) if exponent < 709 else math.inf
    evidence.append(Evidence("bound (β_W·β_f)^lag", bound, None, f"lag {L}", "eq. 7"))
    return evidence
