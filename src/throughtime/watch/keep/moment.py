"""One step of a training, held until it is known that nothing broke in it."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .broken_loss import operation_in
from .copies import Copies
from .nested import Nesting, taken_apart
from .operation import Operation
from .randomness import Randomness

__all__ = ["Moment", "autocast_now", "resting"]


@dataclass
class Moment:
    """What one step began with, and what is known of it since.

    Attributes:
        step: its number.
        randomness: the random state before it.
        copied: whether the weights were copied before it.
        buffers: copies of the model's buffers, as `Weights.begin` returned them.
        seen: by "call" and "batch", what the model was called with and what the user gave: copies,
            or the tensors themselves.
        versions: how often each of these tensors had been written into when it was seen.
        autocast: dtype by device, where it was on as the model was called.
        calls: how often the model was called with gradients enabled.
        outputs: what the first of these calls returned, until the loss is known.
        sent: what the loss sent back to each of the outputs.
        loss: the loss, without its graph.
        loss_node: what computed the loss, as autograd calls it.
        operation: of the loss, that made inf or NaN of finite numbers, where one is found.
        stepped: whether the weights were updated since.
        measured: whether the gradient was looked at.
        sizes: norms of the gradient and of the weights, as they become known.
    """

    step: int
    randomness: Randomness
    copied: bool = False
    buffers: Sequence[Tensor | None] = ()
    seen: dict[str, Nesting] = field(default_factory=dict)
    versions: dict[str, list[int]] = field(default_factory=dict)
    autocast: dict[str, str] = field(default_factory=dict)
    calls: int = 0
    outputs: list[Tensor] = field(default_factory=list)
    sent: dict[int, Tensor] = field(default_factory=dict)
    loss: Tensor | None = None
    loss_node: str | None = None
    operation: Operation | None = None
    stepped: bool = False
    measured: bool = False
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

    def listen(self, output: Any, memory: int) -> None:
        """Note from now on what the loss sends back into what the model returned.

        Args:
            output: what it returned.
            memory: bytes that this may take; nothing is noted where it takes more.
        """
        outputs = [t for t in taken_apart(output, detached=False).tensors if t.requires_grad]
        if sum(t.numel() * t.element_size() for t in outputs) > memory:
            return
        self.outputs = outputs
        # A hook that held this would hold the outputs, and they the hook.
        known: weakref.ref[Moment] = weakref.ref(self)
        for number, tensor in enumerate(outputs):
            tensor.register_hook(functools.partial(_sent, known, number))

    def ask(self, loss: Tensor) -> None:
        """Take what a loss would send back, and what broke it, while its graph is there.

        Args:
            loss: of this step.
        """
        self.operation = operation_in(loss, self.outputs)
        if loss.requires_grad and self.outputs:
            found = torch.autograd.grad(
                loss.sum(), self.outputs, retain_graph=True, allow_unused=True
            )
            self.sent.update({i: g.detach() for i, g in enumerate(found) if g is not None})

    def instead_of(self, later: Moment) -> Moment:
        """Return this step for a later one, between which and this no weights were updated.

        Args:
            later: the step in which it was found what broke in this one.
        """
        self.copied, self.stepped = self.copied or later.copied, self.stepped or later.stepped
        return self

    def changed(self, name: str) -> bool:
        """Check whether what was seen was written into since."""
        now = [_version(tensor) for tensor in self.seen[name].tensors]
        return now != self.versions[name]


def _sent(known: weakref.ref[Moment], number: int, gradient: Tensor | None) -> None:
    moment = known()
    if moment is not None and gradient is not None:
        moment.sent[number] = gradient.detach()


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def autocast_now() -> dict[str, str]:
    """Return the dtype of autocast by device, where it is on."""
    return {
        kind: str(torch.get_autocast_dtype(kind)).removeprefix("torch.")
        for kind in ("cpu", "cuda")
        if torch.is_autocast_enabled(kind)
    }


def resting(model: nn.Module) -> list[str]:
    """Return the paths of the modules that are in evaluation mode."""
    return [path for path, module in model.named_modules() if not module.training]
