"""Choosing the schedule of the backward pass; and what a layer notices when it is called."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import nn

from ..errors import InputTypeError, LayerNotFoundError, UnsupportedError
from ..schedules import AbstractSchedule
from ..schedules.base import check_schedule

__all__ = ["notice", "set_through"]

M = TypeVar("M", bound=nn.Module)


def set_through(model: M, schedule: AbstractSchedule) -> M:
    """Return every layer of this package in ``model`` the same schedule.

    Args:
        model: any module that holds such layers, or is one.
        schedule: `Full`, `Truncated` or `Checkpointed`.

    Returns:
        ``model``.

    Raises:
        InputTypeError: ``model`` is no module, or ``schedule`` no schedule.
        LayerNotFoundError: ``model`` holds no layer of this package.

    Example:
        >>> model = set_through(torch.nn.Sequential(tt.LSTM(3, 5)), tt.Truncated(20))
        >>> model[0].through
        Truncated(window=20, every=None)
    """
    check_schedule(schedule)
    if not isinstance(model, nn.Module):
        raise InputTypeError(f"model must be an nn.Module; got {type(model).__name__}.")
    layers = [module for module in model.modules() if hasattr(type(module), "through")]
    if not layers:
        raise LayerNotFoundError(
            f"{type(model).__name__} holds no layer of throughtime, and only those have a "
            "schedule; tt.convert(model) makes them of nn.RNN, nn.LSTM and nn.GRU."
        )
    for layer in layers:
        layer.through = schedule  # pyright: ignore[reportArgumentType]
    return model


# Where Opacus keeps its way to the rows' gradients of a module that it does not know.
_BY_OPACUS = "ft_compute_sample_grad"


def notice(layer: Any, owner: Any = None) -> None:
    """Make a compiled layer depend on whether a stream carries its state; look for Opacus.

    A stream does so by hooks, and ``torch.compile`` does not look whether hooks came or went after
    it; it looks at what the traced code asks for.

    Args:
        layer: the layer that is called.
        owner: the module that has its weights, if that is another one.

    Raises:
        UnsupportedError: Opacus has wrapped the layer and does not know it.
    """
    if layer.streamed:
        pass
    if not torch.compiler.is_compiling() and _BY_OPACUS in (owner or layer).__dict__:
        raise UnsupportedError(
            f"Opacus does not know {type(layer).__name__} of throughtime; call "
            "throughtime.integrations.opacus.register() before make_private, and pass it the model "
            "anew."
        )
