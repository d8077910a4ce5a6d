"""What a reader of a layer's flow may ask: the members that diagnosis and report rest on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Protocol

from torch import Tensor

from ..cells.base import AbstractCell
from ..errors import UnsupportedError
from ..schedules import Schedule
from ..tape import Tape
from .nonfinite import NonFinite, Terms

__all__ = ["LayerView", "gain", "least"]


class LayerView(Protocol):
    """A layer's flow as its readers see it; `LayerFlow` is one.

    Whatever answers these can be judged, shown in a table and drawn. Shapes are by V losses, T
    steps, B batch rows and a state of S.
    """

    # What is computed when it is first asked for is a cached_property here too: pyright takes no
    # cached_property for a property.

    norms: Tensor
    enters: Tensor
    loss_index: Tensor

    @property
    def name(self) -> str:
        """The layer's name."""
        ...

    @property
    def kind(self) -> str:
        """What recurrence it is, for a reader: "LSTM"."""
        ...

    @property
    def cell(self) -> AbstractCell | None:
        """The recurrence; None where it is only known as the model's own graph."""
        ...

    @property
    def tape(self) -> Tape:
        """The states s_0 to s_T, and which rows take a step or begin anew."""
        ...

    @property
    def reverse(self) -> bool:
        """Whether the layer goes through the input from its end."""
        ...

    @property
    def split(self) -> str:
        """How it was split: "loss", or "step" where a scalar was, by the step where it enters."""
        ...

    @property
    def through(self) -> Schedule:
        """The schedule that the layer is trained under."""
        ...

    @property
    def T(self) -> int:
        """How many steps there are."""
        ...

    @property
    def B(self) -> int:
        """How many batch rows there are."""
        ...

    @property
    def S(self) -> int:
        """How many entries the state has."""
        ...

    @property
    def one_loss(self) -> bool:
        """Whether there is only one loss."""
        ...

    @property
    def jacobian_steps(self) -> range:
        """The steps that have a Jacobian; empty where no state connects the steps."""
        ...

    @property
    def cell_alone(self) -> bool:
        """Whether nothing but the cell connects the steps, so that eq. 6 speaks of them."""
        ...

    @property
    def weight_names(self) -> tuple[str, ...]:
        """The weights that `weight_grad` knows."""
        ...

    @property
    def cuts(self) -> tuple[int, ...]:
        """The steps before which the state was detached, within what is one sequence."""
        ...

    @property
    def loss_count(self) -> int:
        """How many losses there are, followed or not."""
        ...

    @property
    def entering(self) -> Tensor:
        """g_t of the summed loss, all that enters step t, (T, B, G)."""
        ...

    @property
    def preact_adjoints(self) -> Tensor:
        """The adjoints of the summed loss that the weights' gradients are made of, (T, B, ·)."""
        ...

    @cached_property
    def terms(self) -> Terms:
        """The gradients that the summed loss leaves in the weights and the input."""
        ...

    @cached_property
    def preact_norms(self) -> Tensor:
        """‖dE/da_t‖₂ of the summed loss, (T, B)."""
        ...

    @cached_property
    def total_norms(self) -> Tensor:
        """‖dE/ds_k‖₂ of the summed loss, (T+1, B)."""
        ...

    @cached_property
    def entering_norms(self) -> Tensor:
        """‖g_t‖₂ of what the summed loss sends into step t, (T, B)."""
        ...

    @cached_property
    def window_ends(self) -> int | None:
        """The last lag that was measured, where there are longer ones; else None."""
        ...

    @cached_property
    def first_nonfinite(self) -> NonFinite | None:
        """Where the first inf or NaN stands; None where all is finite."""
        ...

    def adjoint(self, loss: int | None = None) -> Tensor:
        """Return dE_v/ds_k for all k, (T+1, B, S); ``loss=None`` sums over the losses."""
        ...

    def follow(self, losses: Tensor) -> Tensor:
        """Return ‖∂E_v/∂s_k‖₂ of one loss per row, whatever a window left out, (T+1, B)."""
        ...

    def lag_profile(self) -> Tensor:
        """Return the typical norm at each lag, relative to lag 0, (L,)."""
        ...

    def row_profiles(self) -> Tensor:
        """Return each batch row's own `lag_profile`, (L, B)."""
        ...

    def horizon(self, fraction: float = 0.01) -> int:
        """Return the last lag at which `lag_profile` is still at or above ``fraction``."""
        ...

    def horizon_text(self, fraction: float = 0.01) -> str:
        """Return `horizon` as it is shown: "7", or "≥ 5" where the window ends there."""
        ...

    def weight_grad(self, name: str, loss: int | None = None, step: int | None = None) -> Tensor:
        """Return one term of ∂E/∂W (eq. 5), in the shape of the weight."""
        ...

    def weight_share(self, name: str) -> Tensor:
        """Return each step's signed share of dE/dW, (T,)."""
        ...

    def dropped(self, schedule: Schedule) -> dict[str, float]:
        """Return the share of each dE/dW that a schedule leaves out."""
        ...

    def share_of(self, steps: Tensor) -> dict[str, float]:
        """Return the share of each dE/dW that some steps (T, B) of rows give; {}: not known."""
        ...

    def input_norms(self) -> Tensor:
        """Return ‖dE/dx_t‖₂ of the summed loss, (T, B)."""
        ...

    def jacobian(self, step: int, *, rows: Sequence[int] | None = None) -> Tensor:
        """Return J_t = ∂s_t/∂s_{t−1} of these rows, (B, S, S)."""
        ...

    def lyapunov(
        self, n: int | None = None, *, since: int = 0, rows: Sequence[int] | None = None
    ) -> Tensor:
        """Return the n largest Lyapunov exponents in nats per step, (B, n)."""
        ...


def gain(layer: LayerView) -> float | None:
    """Return β_W·β_f, the base of the bound of eq. 7; None where the recurrence has none.

    Weights that hold inf or NaN have none either.

    Args:
        layer: a layer's flow.

    Example:
        >>> model = tt.GRU(3, 5)
        >>> with tt.trace(model) as trace:
        ...     losses = model(torch.randn(7, 2, 3))[0].pow(2).mean((1, 2))
        >>> print(gain(trace.flow(losses)["l0"]))
        None
    """
    if layer.cell is None or not layer.cell_alone:
        return None
    try:
        beta_W, beta_f = layer.cell.gain()
    except UnsupportedError:
        return None
    return None if math.isnan(beta_W) else beta_W * beta_f


def least(flow: Mapping[str, LayerView]) -> dict[str, int]:
    """Return one run of each layer, by its name, with how many runs the layer has.

    Of several it is the one that is not finite, or else the one that reaches the fewest steps.

    Args:
        flow: what ``trace.flow`` returned.

    Example:
        >>> model, x = torch.nn.RNN(3, 5), torch.randn(7, 2, 3)
        >>> with tt.trace(model) as trace:
        ...     losses = (model(x)[0] + model(-x)[0]).pow(2).mean((1, 2))
        >>> len(trace.flow(losses)), list(least(trace.flow(losses)).values())
        (2, [2])
    """
    runs: dict[str, list[str]] = {}
    for name in flow:
        runs.setdefault(name.partition("@")[0], []).append(name)

    def reach(name: str) -> tuple[bool, int]:
        return flow[name].first_nonfinite is None, flow[name].horizon()

    return {min(names, key=reach): len(names) for names in runs.values()}
