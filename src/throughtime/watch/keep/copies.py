"""Copies of weights and batches, in memory that is laid out once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from .bundle import named_tensors

__all__ = ["Copies", "Weights"]

# A model's parameters are looked up anew at every one of its first steps, and then at so many.
LOOKED, EVERY = 3, 100


class Copies:
    """Copies of some tensors, in memory that is laid out once and used again."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.tensors: list[Tensor] = []
        self._forms: list[tuple[Any, ...]] = []

    def take(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Copy tensors over what was copied before, and return the copies.

        Args:
            tensors: of the same forms and devices as before, or else memory is laid out anew.
        """
        if not tensors:
            return []
        forms = [(t.shape, t.dtype, t.device) for t in tensors]
        with torch.no_grad():
            if forms != self._forms:
                self.tensors, self._forms = [t.detach().clone() for t in tensors], forms
            else:
                torch._foreach_copy_(self.tensors, list(tensors))  # pyright: ignore
        return self.tensors


class Weights:
    """A model's parameters and buffers, and copies of them.

    Attributes:
        model: the model.
        step: the step before which the parameters were copied last.
        parameters: the model's own.
    """

    def __init__(self, model: nn.Module) -> None:
        """Take the model; nothing is copied yet."""
        self.model, self.step, self._count = model, 0, 0
        self.parameters: list[nn.Parameter] = []
        self._owners: list[tuple[nn.Module, str]] = []
        self._parameters, self._buffers = Copies(), Copies()

    def begin(self) -> list[Tensor | None]:
        """Begin a step, and return copies of the buffers, which a forward pass may change."""
        if self._count < LOOKED or self._count % EVERY == 0:
            self.parameters = list(self.model.parameters())
            self._owners = [(m, name) for m in self.model.modules() for name in m._buffers]
        self._count += 1
        held = [module._buffers.get(name) for module, name in self._owners]
        copies = iter(self._buffers.take([b for b in held if b is not None]))
        return [None if buffer is None else next(copies) for buffer in held]

    def take(self, step: int) -> bool:
        """Copy the parameters, and return whether it was done: not before they have a shape.

        Args:
            step: the one that begins.
        """
        if any(map(is_lazy, self.parameters)):
            return False
        self._parameters.take(self.parameters)
        self.step = step
        return True

    def kept(self, buffers: Sequence[Tensor | None], own: bool) -> dict[str, Tensor]:
        """Return parameters and buffers by name, as they were before a step.

        Args:
            buffers: what `begin` returned then.
            own: whether the parameters are still what they were; else the copies are taken.
        """
        copies: Mapping[int, Tensor] = {}
        if not own:
            pairs = zip(self.parameters, self._parameters.tensors, strict=True)
            copies = {id(parameter): copy for parameter, copy in pairs}
        held = ((module._buffers.get(name), copy) for (module, name), copy in self._both(buffers))
        first = {id(buffer): copy for buffer, copy in held if buffer is not None}
        everything = named_tensors(self.model).items()
        return {n: first.get(id(t), copies.get(id(t), t)) for n, t in everything}

    def _both(self, buffers: Sequence[Tensor | None]) -> list[tuple[tuple[nn.Module, str], Tensor]]:
        pairs = zip(self._owners, buffers, strict=False)
        return [(owner, copy) for owner, copy in pairs if copy is not None]
