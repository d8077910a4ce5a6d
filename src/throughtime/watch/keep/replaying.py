"""A step taken again from a bundle, with the same bits, and where it breaks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from ...diagnosis import examine
from ...diagnosis.found import Findings
from ...errors import BundleError, ThroughTimeError
from ...flow import Flow, trace
from ...flow.nonfinite import NonFinite
from ...remedies.undisturbed import undisturbed
from .bundle import Bundle
from .nested import taken_apart
from .operation import Operation, first_operation
from .settings import settings_of

__all__ = ["Cause", "Replay"]

Losses = Callable[[nn.Module, Any], Tensor]


@dataclass(frozen=True)
class Cause:
    """What a step that is taken again shows.

    Attributes:
        losses: their values.
        gradients: the largest entry of each parameter's gradient, by name.
        operation: the first one that made inf or NaN of finite numbers, if any did.
        first: by layer, the first number of it that is not finite.
        findings: what `tt.examine` finds.
        flow: what they were found in; None where nothing recurrent could be followed.
        unseen: why there is no flow, in a sentence.
    """

    losses: Tensor
    gradients: Mapping[str, float]
    operation: Operation | None = None
    first: Mapping[str, NonFinite] = field(default_factory=dict)
    findings: Findings = field(default_factory=Findings)
    flow: Flow | None = field(default=None, repr=False)
    unseen: str | None = None

    @property
    def finite(self) -> bool:
        """Whether the losses and every gradient are finite."""
        sizes = torch.tensor(list(self.gradients.values()) or [0.0], dtype=torch.float64)
        return bool(self.losses.isfinite().all()) and bool(sizes.isfinite().all())

    def began(self) -> tuple[str, NonFinite] | None:
        """Return the layer in which it began, and where: forward before backward."""
        forward = [pair for pair in self.first.items() if pair[1].before_the_loss]
        backward = list(self.first.items())[-1:]
        return next(iter([*forward, *backward]), None)


class Replay:
    """A step that can be taken again as often as one likes, always with the same bits.

    Attributes:
        bundle: what is replayed.
        model: the model, whose weights each run sets anew.

    Example:
        >>> from throughtime.watch.keep.bundle import Bundle
        >>> from throughtime.watch.keep.randomness import Randomness
        >>> model = torch.nn.Linear(2, 1)
        >>> batch = {"batch": taken_apart(torch.ones(3, 2))}
        >>> bundle = Bundle(1, dict(model.state_dict()), Randomness.now(), batch)
        >>> replay = Replay(bundle, model, lambda model, batch: model(batch).exp().sum())
        >>> replay.cause().finite
        True
    """

    def __init__(
        self,
        bundle: Bundle,
        model: nn.Module,
        losses: Losses | None = None,
        *,
        like: Any = None,
        steps: Iterable[type[nn.Module] | nn.Module | str] = (),
    ) -> None:
        """Take a bundle, and a model that fits it.

        Args:
            bundle: what to replay.
            model: of the same names and shapes; it is changed.
            losses: called with the model and the batch, as in the training. None repeats the
                model's own call, and sends back what the loss had sent.
            like: a batch of the same form, which knows its classes.
            steps: as for `tt.trace`.

        Raises:
            BundleError: the model does not fit, or there is no batch, or no call of the model.
        """
        name = "call" if losses is None else "batch"
        if name not in bundle.nestings:
            raise BundleError(
                f"the bundle of step {bundle.step} holds no batch; give it with the loss: "
                "monitor.record(loss, batch=batch)."
                if losses is not None
                else f"the bundle of step {bundle.step} holds no call of the model as a whole."
            )
        bundle.load(model)
        self.bundle, self.model, self.losses = bundle, model, losses
        self.nesting = bundle.nestings[name]
        self.like, self.steps = like, list(steps)

    def run(self, model: nn.Module | None = None) -> Tensor:
        """Take the step's forward pass again and return its losses.

        Args:
            model: another one than the bundle's, whose weights stay as they are.
        """
        own = self.model if model is None else model
        if model is None:
            self.bundle.load(own)
        first = next(iter(own.parameters()), None)
        batch = self.nesting.together(self.like, None if first is None else first.device)
        self.bundle.randomness.restore()
        with settings_of(self.bundle.facts.get("settings")), torch.enable_grad():
            return _called(own, batch) if self.losses is None else self.losses(own, batch)

    def cause(self) -> Cause:
        """Take the step again in three ways, and return where it breaks.

        Plainly, for the bits; looking at each operation; and followed through time. The random
        state and torch's settings are left as they were.
        """
        with undisturbed():
            losses = self.run()
            gradients = self._gradients(losses)
            operation = first_operation(self.model, self.run)
            flow, unseen = None, None
            try:
                with trace(self.model, steps=self.steps) as watched:
                    again = self.run()
                flow = watched.flow(again)
                findings = examine(flow)
                first = {name: layer.first_nonfinite for name, layer in flow.items()}
            except ThroughTimeError as error:
                unseen, findings, first = str(error), Findings(), {}
        return Cause(
            losses.detach().clone(),
            gradients,
            operation,
            {name: bad for name, bad in first.items() if bad is not None},
            findings,
            flow,
            unseen,
        )

    def _gradients(self, losses: Tensor) -> dict[str, float]:
        """Return the largest entry of each parameter's gradient."""
        named = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        if not losses.requires_grad or not named:
            return {}
        found = torch.autograd.grad(losses.sum(), list(named.values()), allow_unused=True)
        return {
            name: float(gradient.abs().amax()) if gradient.numel() else 0.0
            for name, gradient in zip(named, found, strict=True)
            if gradient is not None
        }


class _Sent(Function):
    """A loss of which only the value, and what it sent back, are known."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, sent: list[Tensor | None], *outputs: Tensor) -> Tensor:
        ctx.sent = sent
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return None, None, *(None if one is None else one * gradients[0] for one in ctx.sent)


def _called(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
    """Call a model as it was called, and return a loss that sends back what was sent.

    Where that is not known, the sum of all that the model returns stands for the loss.
    """
    outputs = model(*batch["args"], **batch["named"])
    held = [t for t in _outputs(outputs) if t.requires_grad]
    sent, value = batch["sent"], batch["loss"]
    if not held:
        return value.clone()
    if not sent:
        return torch.stack([t.sum() for t in held]).sum()
    sent = [*sent, *[None] * (len(held) - len(sent))]
    return _Sent.apply(value, sent, *held)  # pyright: ignore[reportReturnType]


def _outputs(returned: Any) -> list[Tensor]:
    """Return the tensors of what a model returned that a loss can hang on, with their graphs."""
    tensors = taken_apart(returned, detached=False).tensors
    return [t for t in tensors if t.is_floating_point() or t.is_complex()]
