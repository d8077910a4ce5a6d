"""The sizes of a step's gradient and weights, measured in one go: where one is not finite."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...flow.nonfinite import all_finite
from ..surroundings import unwrapped

__all__ = ["Sizes", "as_floats", "bad_names", "norms"]


class Sizes:
    """The largest norms of gradient and weights, which a device may still be computing."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._found: list[tuple[Sequence[Tensor], int]] = []

    def measure(self, parameters: Sequence[Tensor], *, gradient: bool, weight: bool) -> None:
        """Take the norms of parameters, of their gradients, or of both in one go.

        Args:
            parameters: of the model.
            gradient: whether their gradients are measured.
            weight: whether they are measured themselves.
        """
        own = [p for p in parameters if p.is_floating_point() or p.is_complex()]
        gradients = [p.grad for p in own if p.grad is not None] if gradient else []
        found = norms([*gradients, *own] if weight else gradients)
        self._found.append((found, len(gradients)))

    def read(self) -> dict[str, float]:
        """Return the largest norm by "gradient" and "weight", one that is not finite before all.

        Here a device is waited for. Afterwards there is nothing.

        Example:
            >>> sizes = Sizes()
            >>> sizes.measure([torch.ones(4), torch.zeros(2)], gradient=False, weight=True)
            >>> sizes.read(), sizes.read()
            ({'weight': 2.0}, {})
        """
        sizes = {}
        for found, gradients in self._found:
            values = as_floats(found)
            for what, own in (("gradient", values[:gradients]), ("weight", values[gradients:])):
                if own:
                    bad = next((value for value in own if not math.isfinite(value)), None)
                    sizes[what] = max(own) if bad is None else bad
        self._found.clear()
        return sizes


def bad_names(model: nn.Module, what: str) -> list[str]:
    """Return the names of the parameters that are not finite, or whose gradient is not.

    Args:
        model: whose parameters are looked at.
        what: "weight" or "gradient".
    """
    held = (
        (name, parameter if what == "weight" else parameter.grad)
        for name, parameter in unwrapped(model).named_parameters()
    )
    return [name for name, tensor in held if tensor is not None and not all_finite(tensor)]


def norms(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return the norms of some tensors, without waiting for a device.

    A norm is not finite where an entry is not, or where the square of one overflows.

    Args:
        tensors: of floating point.

    Example:
        >>> as_floats(norms([torch.ones(4), torch.zeros(2)]))
        [2.0, 0.0]
    """
    if not tensors:
        return ()
    with torch.no_grad():
        local = [_dense(tensor) for tensor in tensors]
        return torch._foreach_norm(local)  # pyright: ignore[reportPrivateImportUsage]


def as_floats(scalars: Sequence[Tensor]) -> list[float]:
    """Return some scalars as numbers; those of one device are fetched at once.

    Args:
        scalars: tensors without an axis.
    """
    devices = {scalar.device for scalar in scalars}
    if len(devices) != 1 or next(iter(devices)).type == "cpu":
        return [float(scalar) for scalar in scalars]
    return torch.stack([scalar.float() for scalar in scalars]).tolist()


def _dense(tensor: Tensor) -> Tensor:
    """Return what a tensor holds: of a sharded one the part here, of a sparse one its values."""
    if tensor.layout != torch.strided:
        return tensor.coalesce().values()
    to_local = getattr(tensor, "to_local", None)
    return tensor if to_local is None else to_local()
