"""What is measured of a model before and after a remedy: how far, which units, at what cost."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .. import diagnosis
from ..flow import Flow, LayerFlow, lags
from ..norms import vector_norm
from .base import Losses, flow_of
from .places import Place

__all__ = ["FEW", "FRACTION", "Measured", "Reach", "longest_lag", "measured_reach", "unit_reach"]

# What still counts as reached, as in `LayerFlow.horizon`.
FRACTION = 0.01
# The best few units carry a memory.
FEW = 3
# The fastest of so many timed steps is the cost.
TIMED = 3


@dataclass(frozen=True)
class Reach:
    """How far one layer's gradient reaches.

    Attributes:
        layer: its name.
        lag: at which lag it is measured; the longest one where rows are shorter.
        profile: the typical norm by lag, relative to lag 0.
        at_lag: the profile there.
        best: the mean over the best three units of what reaches them, relative to a unit's typical
            (root mean square) gradient at lag 0.
        share: the share of the units that get at least 1 % of that.
        horizon: the last lag at 1 % of lag 0.
        coverage: the share of steps that get at least 1 % of what the last step behind a loss gets,
            from all losses together.
        nonfinite: where the first inf or NaN stands, in words; None where all is finite.
    """

    layer: str
    lag: int
    profile: tuple[float, ...]
    at_lag: float
    best: float
    share: float
    horizon: int
    coverage: float
    nonfinite: str | None

    @property
    def peak(self) -> float:
        """The largest entry of the profile."""
        return max((p for p in self.profile if not math.isnan(p)), default=math.nan)


@dataclass(frozen=True)
class Measured:
    """What was measured of a model.

    Attributes:
        layers: by the flow's names.
        seconds: the fastest forward and backward pass of a few.
        found: codes of the findings that are errors or warnings, most harmful first.
    """

    layers: dict[str, Reach]
    seconds: float
    found: tuple[str, ...] = ()
    flow: Flow | None = field(default=None, compare=False, repr=False)

    def at(self, places: Sequence[Place] = ()) -> Reach:
        """Return the layer that reaches farthest, at these places or in all of the model.

        A gradient goes back through time in any layer of a stack, so the best one decides.

        Args:
            places: modules of the model; none: anywhere.
        """
        own = [r for n, r in self.layers.items() if any(place.holds(n) for place in places)]
        among = own or list(self.layers.values())
        return max(among, key=lambda r: (r.nonfinite is None, _number(r.best)))

    @property
    def nonfinite(self) -> str | None:
        """Where the first layer with inf or NaN has it."""
        return next((r.nonfinite for r in self.layers.values() if r.nonfinite), None)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        named = {n: {k: v for k, v in vars(r).items()} for n, r in self.layers.items()}
        return {"layers": named, "seconds": self.seconds, "found": list(self.found)}


def measured_reach(model: nn.Module, losses: Losses, lag: int | None) -> Measured:
    """Measure a model: its flow, the reach of each layer, the cost of a step.

    Args:
        model: a copy; its gradients and buffers may change.
        losses: runs it.
        lag: in steps; None takes the first step of each layer.
    """
    flow = flow_of(model, losses)
    layers = {name: _reach(layer, lag) for name, layer in flow.items()}
    return Measured(layers, _seconds(model, losses), _found(flow, lag), flow)


def longest_lag(flow: Mapping[str, LayerFlow]) -> int:
    """Return the longest lag that any loss has; at least 1."""
    return max(1, *(int(lags.farthest(f.norms, f.enters, f.tape).max()) for f in flow.values()))


def unit_reach(layer: LayerFlow, lag: int) -> Tensor:
    """Return what reaches each unit ``lag`` steps behind a loss, (H,), float64.

    It is ‖dE/ds_{t−lag}‖ of a unit (its h and c together), relative to the root mean square over
    the units at t, the step of the loss; averaged over the rows. Of several losses that one is
    taken that reaches back so far in the most rows.

    Args:
        layer: a layer's flow.
        lag: in steps.

    Example:
        >>> model = tt.RNN(3, 4, nonlinearity="identity")
        >>> with torch.no_grad():
        ...     _ = model.weight_hh_l0.copy_(torch.diag(torch.tensor([1.0, .5, 0, 0])))
        >>> with tt.trace(model) as trace:
        ...     loss = model(torch.randn(9, 2, 3))[0][-1].sum()
        >>> unit_reach(trace.flow(loss)["l0"], 2).tolist()
        [1.0, 0.25, 0.0, 0.0]
    """
    lengths = lags.lengths(layer.norms, layer.enters, layer.tape)
    rows = lengths >= lag
    S = layer.S
    H = layer.cell.hidden_size if layer.cell is not None else S
    units = H if S % H == 0 else S
    if not bool(rows.any()):
        return torch.full((units,), math.nan, dtype=torch.float64)
    v = int(rows.sum(1).argmax())
    adjoint = layer.adjoint(int(layer.loss_index[v])).double()
    each = rows[v].nonzero().flatten()
    t = layer.enters[v, each]

    def by_unit(s: Tensor) -> Tensor:
        return vector_norm(s.reshape(len(each), -1, units).transpose(1, 2))

    there, here = by_unit(adjoint[t - lag, each]), by_unit(adjoint[t, each])
    return (there / here.pow(2).mean(1, keepdim=True).sqrt()).mean(0)


def _reach(layer: LayerFlow, lag: int | None) -> Reach:
    profile = layer.lag_profile().tolist()
    far = int(lags.farthest(layer.norms, layer.enters, layer.tape).max())
    # The state before the first step has no input behind it.
    at = max(0, far - 1 if lag is None else min(lag, far))
    units = unit_reach(layer, at)
    best = units.sort(descending=True).values[:FEW].mean()
    bad = layer.first_nonfinite
    return Reach(
        layer=layer.name,
        lag=at,
        profile=tuple(profile),
        at_lag=profile[at] if at < len(profile) else math.nan,
        best=float(best),
        share=float((units >= FRACTION).double().mean()),
        horizon=layer.horizon(),
        coverage=_coverage(layer),
        nonfinite=None if bad is None else f"{bad.kind}, {bad.direction}, step {bad.step}",
    )


def _coverage(layer: LayerFlow) -> float:
    """Return the share of the steps that some loss reaches with 1 % of what the last step gets."""
    total = layer.total_norms[1:].double()
    entering = layer.enters.amax(0)
    rows = (entering > 0).nonzero().flatten()
    if not len(rows):
        return 0.0
    last = total[entering[rows] - 1, rows]
    steps = torch.arange(1, layer.T + 1, device=total.device)[:, None]
    counts = steps <= entering[rows]
    if layer.tape.active is not None:
        counts = counts & layer.tape.active[:, rows]
    reached = (total[:, rows] >= FRACTION * last) & counts
    return float(reached.sum() / counts.sum().clamp(min=1))


def _seconds(model: nn.Module, losses: Losses) -> float:
    """Return how long a forward and a backward pass take."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    taken = []
    for _ in range(TIMED):
        start = time.perf_counter()
        total = losses(model).sum()
        if parameters and total.requires_grad:
            # Not backward(): what lies outside the model keeps the gradients that it has.
            torch.autograd.grad(total, parameters, allow_unused=True)
        taken.append(time.perf_counter() - start)
    return min(taken)


def _found(flow: Flow, lag: int | None) -> tuple[str, ...]:
    """Return the codes of what `tt.examine` calls an error or a warning."""
    examine = getattr(diagnosis, "examine", None)
    if examine is None:
        return ()
    asked = None if lag is None or lag < 1 else lag
    found = [f.code for f in examine(flow, lag=asked) if f.severity in {"error", "warning"}]
    return tuple(dict.fromkeys(found))


def _number(value: float) -> float:
    return -math.inf if math.isnan(value) else value
