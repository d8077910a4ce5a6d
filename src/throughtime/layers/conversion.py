"""Turning a model's recurrent modules into this package's and back, over the same weights."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, overload

import torch
from torch import nn

from ..errors import ConvertWarning, InputTypeError, UnsupportedError
from ..schedules import FULL
from .modules import GRU, LSTM, RNN
from .recurrent import Recurrent
from .recurrent_kinds import left_alone, own_class

__all__ = ["convert", "unconvert"]

M = TypeVar("M", bound=nn.Module)
Kinds = Mapping[type[nn.Module], type[nn.Module]]

COUNTERPARTS: Kinds = {nn.RNN: RNN, nn.LSTM: LSTM, nn.GRU: GRU}
BACK: Kinds = {ours: theirs for theirs, ours in COUNTERPARTS.items()}
TORCHS_NONLINEARITIES = ("tanh", "relu")


@overload
def convert(model: nn.RNN) -> RNN: ...  # pyright: ignore[reportOverlappingOverload]
@overload
def convert(model: nn.LSTM) -> LSTM: ...  # pyright: ignore[reportOverlappingOverload]
@overload
def convert(model: nn.GRU) -> GRU: ...  # pyright: ignore[reportOverlappingOverload]
@overload
def convert(model: M) -> M: ...
def convert(model: nn.Module) -> nn.Module:
    """Replace every `nn.RNN`, `nn.LSTM` and `nn.GRU` in place by the layer of this package.

    The module object stays and changes its class, so parameters, optimizers, hooks,
    parametrizations and whoever else holds the module keep what they have. A subclass that
    somebody wrote is left alone: its forward is its own. Of each recurrent module that was left
    alone, and why, a `ConvertWarning` tells: subclasses, cells for one step, and classes of one's
    own whose ``forward`` takes a state. `unconvert` is the opposite.

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
    _check_model(model)
    for module in model.modules():
        if own_class(module) in COUNTERPARTS:
            _change_class(module, COUNTERPARTS)
    groups: dict[tuple[type, str], list[str]] = {}
    for path, module, reason in left_alone(model):
        groups.setdefault((own_class(module), reason), []).append(path)
    for (kind, reason), paths in groups.items():
        _warn(
            f"convert left {_listed(kind, paths)} alone: {kind.__name__} {reason}. It trains by "
            "autograd as before; tt.Recurrent(tt.cells.Function(step, ...)) makes a layer of a "
            "step, and tt.RNN, tt.LSTM, tt.GRU can stand inside a class of one's own."
        )
    return model


@overload
def unconvert(model: RNN) -> nn.RNN: ...  # pyright: ignore[reportOverlappingOverload]
@overload
def unconvert(model: LSTM) -> nn.LSTM: ...  # pyright: ignore[reportOverlappingOverload]
@overload
def unconvert(model: GRU) -> nn.GRU: ...  # pyright: ignore[reportOverlappingOverload]
@overload
def unconvert(model: M) -> M: ...
def unconvert(model: nn.Module) -> nn.Module:
    """Turn every `tt.RNN`, `tt.LSTM` and `tt.GRU` in place back into ``torch.nn``'s.

    For export, and for whoever asks for an `nn.LSTM`. The module object and its Parameters stay, as
    with `convert`. A schedule other than `tt.Full` is dropped, with a `ConvertWarning`: torch's
    layers know only the whole gradient. So is nothing else: a layer that torch.nn cannot express
    is an error, and then no module was changed. Subclasses of this package's layers are left alone,
    with a `ConvertWarning`.

    Args:
        model: any module; it may itself be a recurrent layer.

    Returns:
        ``model``.

    Raises:
        InputTypeError: ``model`` is no module.
        UnsupportedError: it holds a `tt.RNN` with the nonlinearity "sigmoid" or "identity", or a
            `tt.Recurrent`.

    Example:
        >>> model = unconvert(torch.nn.Sequential(tt.LSTM(3, 5)))
        >>> type(model[0])
        <class 'torch.nn.modules.rnn.LSTM'>
    """
    _check_model(model)
    for path, module in model.named_modules():
        _check_expressible(path, module)
    scheduled, subclasses = [], []
    for path, module in model.named_modules():
        if own_class(module) in BACK:
            if module.through != FULL:
                scheduled.append(f"{path or type(module).__name__} ({module.through})")
            _change_class(module, BACK)
            vars(module).pop("through", None)
            with torch.no_grad():  # a computed weight is computed again when the layer is called
                module._init_flat_weights()  # pyright: ignore[reportCallIssue]
        elif isinstance(module, tuple(BACK)):
            subclasses.append(f"{path or 'the model'} ({type(module).__name__})")
    if scheduled:
        _warn(
            f"unconvert dropped the schedule of {', '.join(scheduled)}: layers of torch.nn go back "
            "over all steps. Where that matters, keep this package's layers for training."
        )
    if subclasses:
        _warn(
            f"unconvert left {', '.join(subclasses)} alone: subclasses of this package's layers, "
            "whose methods are their own."
        )
    return model


def _check_model(model: object) -> None:
    if not isinstance(model, nn.Module):
        raise InputTypeError(f"model must be an nn.Module; got {type(model).__name__}.")


def _check_expressible(path: str, module: nn.Module) -> None:
    """Raise where torch.nn has no module that computes what this one does.

    Raises:
        UnsupportedError: it has none.
    """
    named = f"{path!r}" if path else "the model"
    if isinstance(module, Recurrent):
        raise UnsupportedError(
            f"{named} is a tt.Recurrent over {type(module.cell).__name__}, which torch.nn has no "
            "layer for; nothing was changed. Call unconvert on the parts of the model without it."
        )
    nonlinearity = getattr(module, "nonlinearity", "tanh")
    if own_class(module) is RNN and nonlinearity not in TORCHS_NONLINEARITIES:
        raise UnsupportedError(
            f"{named} is a tt.RNN with nonlinearity={nonlinearity!r}, and nn.RNN knows "
            f"{' and '.join(TORCHS_NONLINEARITIES)} alone; nothing was changed. Call unconvert on "
            "the parts of the model without it."
        )


def _change_class(module: nn.Module, kinds: Kinds) -> None:
    """Make a module one of the class that stands for its own."""
    kind = type(module)
    if kind in kinds:
        module.__class__ = kinds[kind]
        return
    # parametrize gives each module a class of its own, which holds the properties.
    properties: dict[str, Any] = {
        k: v for k, v in vars(kind).items() if k not in ("__dict__", "__weakref__")
    }
    module.__class__ = type(kind.__name__, (kinds[kind.__bases__[0]],), properties)


def _listed(kind: type, paths: Iterable[str], most: int = 3) -> str:
    """Return the paths of modules of one class, the first few by name."""
    named = [repr(path) if path else f"the {kind.__name__}" for path in paths]
    rest = len(named) - most
    return ", ".join(named[:most]) + (f" and {rest} more" if rest > 0 else "")


def _warn(text: str) -> None:
    warnings.warn(text, ConvertWarning, stacklevel=3)
