"""From measured norms to a verdict a layer."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import InputTypeError, InputValueError, UnsupportedError
from ..flow import Flow, LayerFlow
from .advice import advice
from .evidence import Diagnosis, Evidence, Verdict

__all__ = ["diagnose"]


def diagnose(
    flow: Flow | Mapping[str, LayerFlow], *, fraction: float = 0.01, growth: float = 100.0
) -> dict[str, Diagnosis]:
    """Judge each layer from what was measured; the bounds stand beside and never decide (eq. 8).

    In this order, with p(ℓ) the layer's `LayerFlow.lag_profile` over the lags 0…L:

    - NONFINITE: a state or an adjoint is inf or NaN (eq. 10).
    - EXPLODING: p reaches ``growth`` at some lag.
    - VANISHING: p(L) is below ``fraction``; or p falls, over the second half of the lags, at a
      rate at which ``fraction`` is reached within L steps. The rate sees through a transient: a
      non-normal W_h can raise the norm for some steps although every eigenvalue lies below 1.
    - VANISHING, too: no loss sends any gradient into the layer at all.
    - HEALTHY: none of these.

    Args:
        flow: what `throughtime.Trace.flow` gave.
        fraction: what share of the lag-0 norm still counts as arriving.
        growth: what multiple of the lag-0 norm counts as exploding.

    Returns:
        A `Diagnosis` for each layer's name.

    Raises:
        InputTypeError: ``flow`` is no flow.
        InputValueError: not 0 < fraction < 1 < growth.

    Cost:
        one sweep for the total adjoint, and for an Elman cell one SVD of W_h.

    Example:
        >>> model = torch.nn.RNN(3, 64)
        >>> with tt.trace(model) as trace:
        ...     loss = model(torch.randn(100, 2, 3))[0][-1].pow(2).mean()
        >>> tt.diagnose(trace.flow(loss))["l0"].verdict.name
        'VANISHING'
    """
    if not isinstance(flow, Mapping):
        raise InputTypeError(
            f"flow must be what trace.flow(losses) gave; got {type(flow).__name__}."
        )
    if not 0 < fraction < 1 < growth:
        raise InputValueError(
            f"thresholds must be 0 < fraction < 1 < growth; got {fraction}, {growth}."
        )
    return {name: _judge(name, layer, fraction, growth) for name, layer in flow.items()}


def _judge(name: str, layer: LayerFlow, fraction: float, growth: float) -> Diagnosis:
    profile = layer.lag_profile().double()
    measured = profile.isfinite().nonzero().flatten()
    if len(measured) == 0:
        verdict, decided = _without_profile(layer)
    else:
        verdict, decided = _from_profile(profile, int(measured[-1]), fraction, growth)
    bad = layer.first_nonfinite
    if bad is not None:
        verdict = Verdict.NONFINITE
        value = math.inf if bad.kind == "inf" else math.nan
        what = "state s_t" if bad.direction == "forward" else "adjoint dE/ds_t"
        where = f"step {bad.step}, row {bad.row}, unit {bad.unit}"
        decided = [
            Evidence(
                f"first non-finite {what}, {bad.direction}", value, math.inf, where, "eq. 10", True
            )
        ]
    beside = _beside(layer, profile, measured, fraction)
    return Diagnosis(name, verdict, (*decided, *beside), advice(verdict, layer, bad))


def _from_profile(
    profile: Tensor, L: int, fraction: float, growth: float
) -> tuple[Verdict, list[Evidence]]:
    """Judge by the profile over the lags 0…L."""
    seen = profile[: L + 1].nan_to_num(-1.0)
    peak = int(seen.argmax())
    top = Evidence(
        "largest norm, relative to lag 0", float(seen[peak]), growth, f"lag {peak}", "eq. 9"
    )
    far = Evidence("norm, relative to lag 0", float(seen[L]), fraction, f"lag {L}", "eq. 9")
    slope, first = _rate(seen, L)
    # The rate at which the profile would reach the fraction just at the farthest lag.
    limit = math.log(fraction) / L if L else -math.inf
    fall = Evidence("rate of the norm, nats a step", slope, limit, f"lags {first} to {L}", "eq. 9")
    if seen[peak] >= growth:
        return Verdict.EXPLODING, [_deciding(top), far, fall]
    if seen[L] < fraction:
        return Verdict.VANISHING, [_deciding(far), top, fall]
    if slope < limit:
        return Verdict.VANISHING, [_deciding(fall), far, top]
    return Verdict.HEALTHY, [_deciding(far), _deciding(top), _deciding(fall)]


def _without_profile(layer: LayerFlow) -> tuple[Verdict, list[Evidence]]:
    """Judge a layer at which no finite gradient enters: with exactly none, it learns nothing."""
    largest = float(layer.total_norms.nan_to_num(0).max())
    where = "every step"
    evidence = Evidence("largest norm dE/ds_k", largest, 0.0, where, "eq. 9", True)
    return (Verdict.HEALTHY if largest > 0 else Verdict.VANISHING), [evidence]


def _deciding(evidence: Evidence) -> Evidence:
    return Evidence(
        evidence.quantity,
        evidence.value,
        evidence.threshold,
        evidence.where,
        evidence.equation,
        True,
    )


def _rate(profile: Tensor, L: int) -> tuple[float, int]:
    """Give the slope of ln p over the second half of the lags, by least squares, and its start."""
    first = L // 2
    lags = torch.arange(first, L + 1, dtype=torch.float64, device=profile.device)
    values = profile[first : L + 1]
    there = (values > 0) & values.isfinite()
    if int(there.sum()) < 3:
        return 0.0, first
    x, y = lags[there], values[there].log()
    x = x - x.mean()
    return float((x * y).sum() / (x * x).sum()), first


def _beside(layer: LayerFlow, profile: Tensor, measured: Tensor, fraction: float) -> list[Evidence]:
    """Give what stands beside the verdict: the horizon and, where there is one, the bound."""
    L = int(measured[-1]) if len(measured) else 0
    found = [
        Evidence(
            f"horizon, the last lag with at least {fraction:g} of the norm",
            float(layer.horizon(fraction)),
            None,
            f"lags 0 to {L}",
            "eq. 9",
        )
    ]
    try:
        beta_W, beta_f = layer.cell.gain()
    except UnsupportedError:
        return found
    gain = beta_W * beta_f
    found.append(Evidence("β_W·β_f", gain, None, "every step", "eq. 6"))
    exponent = L * math.log(gain) if gain > 0 else -math.inf
    bound = math.exp(exponent) if exponent < 709 else math.inf
    found.append(Evidence("bound (β_W·β_f)^lag", bound, None, f"lag {L}", "eq. 7"))
    return found
