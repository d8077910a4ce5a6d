"""The IRNN: the identity as W_h, and ReLU."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Generator, nn

from ..diagnosis.paste import CALLS
from ..errors import InputTypeError
from ..layers import RNN
from .base import Case, Change, Remedy, plain_weights
from .places import Place
from .weight_blocks import weight_suffixes

__all__ = ["IDENTITY_RELU", "identity_relu_"]

M = TypeVar("M", bound=nn.Module)


def identity_relu_(layer: M, spread: float = 0.001, generator: Generator | None = None) -> M:
    """Make a plain layer an IRNN, and return it: W_h = 1, b = 0, f = ReLU (eq. 1, 4).

    Then J_t is diag(f′): a unit above 0 passes its gradient on whole. The weights of the input are
    drawn from N(0, spread²), as in the paper, so that the states do not grow at once.

    Args:
        layer: an RNN of ``torch.nn`` or of this package, or an `nn.RNNCell`.
        spread: of the input's weights; 0 leaves them as they are.
        generator: for reproducible draws.

    Returns:
        ``layer`` itself.

    Raises:
        InputTypeError: ``layer`` is no plain layer.

    Source:
        Le, Jaitly and Hinton (2015), "A simple way to initialize recurrent networks of rectified
        linear units".

    Example:
        >>> layer = identity_relu_(torch.nn.RNN(3, 4))
        >>> layer.nonlinearity, bool((layer.weight_hh_l0 == torch.eye(4)).all())
        ('relu', True)
    """
    if not isinstance(layer, (nn.RNN, RNN, nn.RNNCell)):
        raise InputTypeError(
            f"only a plain RNN becomes an IRNN; got {type(layer).__name__}. For an LSTM or a GRU "
            "use chrono_."
        )
    changed: Any = layer
    changed.nonlinearity = "relu"
    if isinstance(layer, nn.RNNBase):
        layer.mode = "RNN_RELU"
    for suffix in weight_suffixes(layer):
        with torch.no_grad():
            hidden = getattr(layer, f"weight_hh{suffix}")
            hidden.copy_(torch.eye(len(hidden)))
            if spread:
                weight = getattr(layer, f"weight_ih{suffix}")
                where = generator.device if generator else "cpu"
                drawn = torch.randn(weight.shape, generator=generator, device=where)
                weight.copy_(spread * drawn)
            for kind in ("ih", "hh"):
                bias = getattr(layer, f"bias_{kind}{suffix}", None)
                if bias is not None:
                    bias.zero_()
    return layer


def _fits(case: Case, place: Place) -> bool:
    del case
    kinds = (nn.RNN, RNN, nn.RNNCell)
    return isinstance(place.module, kinds) and plain_weights(place.module)


def _change(case: Case, place: Place) -> Change:
    identity_relu_(place.module, generator=case.generator(place))
    return Change(IDENTITY_RELU.line(place.expression, case.lag), names=("identity_relu_",))


IDENTITY_RELU = Remedy(
    name="identity-relu",
    against=("vanishes",),
    what="The identity as W_h with ReLU: units above 0 pass their gradient on whole.",
    formula="W_h = 1, b = 0, f = ReLU, W_x ~ N(0, .001²)",
    source="Le, Jaitly and Hinton (2015), A simple way to initialize recurrent networks of "
    "rectified linear units",
    gains="The adding problem up to T = 300 in the paper, with a small learning rate. "
    "States have no upper limit: clip the gradient too.",
    fits=_fits,
    change=_change,
    call=CALLS["identity-relu"],
)
