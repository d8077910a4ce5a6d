"""One step of a training, held until it is known that nothing broke in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .nested import Nesting, taken_apart
from .randomness import Randomness

__all__ = ["Copies", "Moment", "autocast_now", "size_of"]


class Copies:
    """Copies of some tensors, in memory that is laid out once and used again."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.tensors: list[Tensor] = []

    def take(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Copy tensors over what was copied before, and return the copies.

        Args:
            tensors: of the same number, forms and devices as before, or else memory is laid out
                anew.
        """
        with torch.no_grad():
            held = self.tensors
            if len(held) != len(tensors) or not all(map(_alike, held, tensors)):
                self.tensors = [t.detach().clone() for t in tensors]
            elif held:
                torch._foreach_copy_(held, [t.detach() for t in tensors])  # pyright: ignore
        return self.tensors


def _alike(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and one.device == other.device


@dataclass
class Moment:
    """What one step began with, and what is known of it since.

    Attributes:
        step: its number.
        randomness: the random state before it.
        copied: whether the weights were copied before it.
        buffers: copies of the model's buffers by name.
        seen: by "call" and "batch", what the model was called with and what the user gave: copies,
            or the tensors themselves.
        versions: how often each of these tensors had been written into when it was seen.
        autocast: dtype by device, where it was on as the model was called.
        calls: how often the model was called with gradients enabled.
        outputs: what the first of these calls returned, until the loss is known.
        sent: what the loss sent back to each of the outputs.
        loss: the loss, without its graph.
        loss_node: what computed the loss, as autograd calls it.
        stepped: whether the weights were updated since.
        sizes: norms of the gradient and of the weights, as they become known.
    """

    step: int
    randomness: Randomness
    copied: bool = False
    buffers: Mapping[str, Tensor] = field(default_factory=dict)
    seen: dict[str, Nesting] = field(default_factory=dict)
    versions: dict[str, list[int]] = field(default_factory=dict)
    autocast: dict[str, str] = field(default_factory=dict)
    calls: int = 0
    outputs: list[Tensor] = field(default_factory=list)
    sent: dict[int, Tensor] = field(default_factory=dict)
    loss: Tensor | None = None
    loss_node: str | None = None
    stepped: bool = False
    sizes: dict[str, float] = field(default_factory=dict)

    def see(self, name: str, values: Any, copies: Copies) -> None:
        """Keep what the model was called with, or a batch.

        Args:
            name: "call" or "batch".
            values: any nesting.
            copies: where it is copied, if the weights are.
        """
        plan, tensors = taken_apart(values)
        tensors = copies.take(tensors) if self.copied else tensors
        self.seen[name] = Nesting(plan, tensors)
        self.versions[name] = [_version(tensor) for tensor in tensors]

    def changed(self, name: str) -> bool:
        """Check whether what was seen was written into since."""
        now = [_version(tensor) for tensor in self.seen[name].tensors]
        return now != self.versions[name]


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def autocast_now() -> dict[str, str]:
    """Return the dtype of autocast by device, where it is on."""
    return {
        kind: str(torch.get_autocast_dtype(kind)).removeprefix("torch.")
        for kind in ("cpu", "cuda")
        if torch.is_autocast_enabled(kind)
    }


def size_of(tensors: Sequence[Tensor]) -> Tensor | None:
    """Return the largest norm of some tensors as a tensor, without waiting for a device.

    It is not finite where an entry is not, or where the square of one overflows.

    Args:
        tensors: of floating point.
    """
    local = [_dense(t.detach()) for t in tensors]
    if not local:
        return None
    norms = torch._foreach_norm(local)  # pyright: ignore[reportPrivateImportUsage]
    where, dtype = norms[0].device, torch.float32 if len({n.dtype for n in norms}) > 1 else None
    alike = [n.to(where, dtype or n.dtype) for n in norms]
    return torch.stack(alike).amax()


def _dense(tensor: Tensor) -> Tensor:
    """Return what a tensor holds: of a sharded one the part here, of a sparse one its values."""
    if tensor.layout != torch.strided:
        return tensor.coalesce().values()
    to_local = getattr(tensor, "to_local", None)
    return tensor if to_local is None else to_local()


def resting(model: nn.Module) -> list[str]:
    """Return the paths of the modules that are in evaluation mode."""
    return [path for path, module in model.named_modules() if not module.training]
