"""A leaky cell instead of a plain one: units whose own time constant is the lag."""

from __future__ import annotations

from functools import partial

from torch import nn

from ..cells import Leaky
from ..errors import InputTypeError, InputValueError
from ..layers import RNN
from .base import Case, Change, Remedy, plain_weights
from .cell_stack import Stacked, cells_over, stackable
from .places import Place

__all__ = ["LEAKY", "leaky"]

KINDS = (nn.RNN, RNN)


def leaky(layer: nn.Module, alpha: float) -> Stacked:
    """Return leaky layers over the same weights: h_t = (1 − κ) h_{t−1} + κ f(a_t).

    Args:
        layer: an `nn.RNN` or `tt.RNN` of one direction.
        alpha: κ, in (0, 1]; a unit forgets to 1/e over about 1/κ steps.

    Raises:
        InputTypeError: it is none.
        InputValueError: ``alpha`` outside (0, 1].

    Source:
        Jaeger, Lukoševičius, Popovici and Siewert (2007).

    Example:
        >>> layer = leaky(torch.nn.RNN(3, 5), alpha=0.1)
        >>> output, h_n = layer(torch.zeros(7, 2, 3))
        >>> output.shape, h_n.shape
        (torch.Size([7, 2, 5]), torch.Size([1, 2, 5]))
    """
    if not stackable(layer, KINDS) or not isinstance(layer, (nn.RNN, RNN)):
        raise InputTypeError(
            "leaky takes an nn.RNN or tt.RNN of one direction without dropout; got "
            f"{type(layer).__name__}."
        )
    if not 0 < alpha <= 1:
        raise InputValueError(f"alpha must lie in (0, 1]; got {alpha!r}.")
    kind = partial(Leaky, alpha=alpha, nonlinearity=layer.nonlinearity)
    return Stacked(cells_over(layer, kind), layer.batch_first)


def _fits(case: Case, place: Place) -> bool:
    return case.lag >= 2 and stackable(place.module, KINDS) and plain_weights(place.module)


def _change(case: Case, place: Place) -> Change:
    alpha = float(f"{1 / case.lag:.3g}")
    at = place.expression
    line = f"{at} = leaky({at}, alpha={alpha:g})"
    return Change(line, leaky(place.module, alpha), ("leaky",))


LEAKY = Remedy(
    name="leaky-cell",
    against=("vanishes", "explodes"),
    what="Leaky units with the lag as their time constant.",
    formula="h_t = (1 − κ) h_{t−1} + κ f(a_t), κ = 1/lag",
    source="Jaeger, Lukoševičius, Popovici and Siewert (2007), Optimization and applications of "
    "echo state networks with leaky-integrator neurons",
    gains="Slow signals. One input among many distractors counts for κ of the state only.",
    fits=_fits,
    change=_change,
)
