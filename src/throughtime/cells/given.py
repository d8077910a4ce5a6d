"""What a step of somebody's own is called with beside input and state: looked at before it is."""

from __future__ import annotations

from collections.abc import Container, Mapping

from torch import Tensor, nn

from ..errors import DtypeError, InputTypeError, InputValueError
from ..torch_state import is_transforming

__all__ = ["check_context", "check_dict", "check_weight", "is_computed"]


def check_dict(name: str, tensors: object) -> None:
    """Raise unless it is a dict, or None.

    Raises:
        InputTypeError: it is something else.
    """
    if tensors is not None and not isinstance(tensors, Mapping):
        raise InputTypeError(
            f"{name} must be a dict of tensors by name; got {type(tensors).__name__}."
        )


def check_weight(cell: object, name: object, weight: object) -> None:
    """Raise unless a tensor can be one of a cell's weights.

    Raises:
        InputValueError: the name is none, or the cell has something by that name.
        InputTypeError: no tensor.
        DtypeError: it is of integers.
    """
    if not isinstance(name, str) or not name.isidentifier() or hasattr(cell, name):
        raise InputValueError(
            f"a weight cannot be called {name!r}: the step takes it by that name, and the cell "
            "must have none like it of its own; give it another."
        )
    if not isinstance(weight, Tensor):
        raise InputTypeError(f"weight {name} must be a tensor; got {type(weight).__name__}.")
    if not (weight.is_floating_point() or weight.is_complex()):
        raise DtypeError(
            f"weight {name} must be of floating point to have a gradient; got {weight.dtype}. "
            "Let the step take other tensors from where it is written, or in context=."
        )


def check_context(context: Mapping[str, Tensor], weights: Container[str]) -> None:
    """Raise unless a step can be given these tensors beside weights of these names.

    Raises:
        InputValueError: a name that is none, or that a weight has.
        InputTypeError: no tensor.
    """
    for name, tensor in context.items():
        if not isinstance(name, str) or not name.isidentifier() or name in weights:
            raise InputValueError(
                f"what a step is given in context= cannot be called {name!r}: the step takes "
                "it by that name, which no weight may have; give it another."
            )
        if not isinstance(tensor, Tensor):
            raise InputTypeError(
                f"context {name} must be a tensor; got {type(tensor).__name__}. Let the step "
                "take anything else from where it is written."
            )


def is_computed(weight: Tensor) -> bool:
    """Check whether a tensor comes from others, so that a Parameter would cut its gradient off."""
    if isinstance(weight, nn.Parameter):
        return False
    return weight.grad_fn is not None or is_transforming()
