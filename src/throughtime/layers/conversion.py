"""Turning a model's recurrent modules into this package's, over the same weights."""

from __future__ import annotations

from typing import TypeVar

from torch import nn
from torch.nn.utils import parametrize

from ..errors import InputTypeError
from .modules import GRU, LSTM, RNN

__all__ = ["convert"]

M = TypeVar("M", bound=nn.Module)

COUNTERPARTS: dict[type[nn.Module], type[nn.Module]] = {nn.RNN: RNN, nn.LSTM: LSTM, nn.GRU: GRU}


def convert(model: M) -> M:
    """Replace every `nn.RNN`, `nn.LSTM` and `nn.GRU` in place by the layer of this package.

    The module object stays and changes its class, so parameters, optimizers, hooks,
    parametrizations and whoever else holds the module keep what they have. A subclass that
    somebody wrote is left alone: its forward is its own.

    Args:
        model: any module; it may itself be a recurrent layer.

    Returns:
        ``model``.

    Raises:
        InputTypeError: ``model`` is no module.

    Example:
        >>> model = convert(torch.nn.Sequential(torch.nn.LSTM(3, 5)))
        >>> type(model[0]).__module__
        'throughtime.layers.modules'
    """
    if not isinstance(model, nn.Module):
        raise InputTypeError(f"model must be an nn.Module; got {type(model).__name__}.")
    for module in model.modules():
        kind = type(module)
        if kind in COUNTERPARTS:
            module.__class__ = COUNTERPARTS[kind]
        elif parametrize.is_parametrized(module) and kind.__base__ in COUNTERPARTS:
            # parametrize gives each module a class of its own, which holds the properties.
            properties = {
                k: v for k, v in vars(kind).items() if k not in ("__dict__", "__weakref__")
            }
            module.__class__ = type(kind.__name__, (COUNTERPARTS[kind.__base__],), properties)
    return model
