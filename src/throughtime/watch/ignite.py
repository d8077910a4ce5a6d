"""A `Monitor` as a handler of Ignite."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ..errors import PackageError
from .monitor import Monitor

try:
    from ignite.engine import Engine, Events  # pyright: ignore[reportMissingImports]
except ImportError as error:
    raise PackageError(
        "throughtime.watch.ignite needs Ignite, which is not installed: pip install pytorch-ignite."
    ) from error

__all__ = ["MonitorHandler"]


class MonitorHandler:
    """Measures the gradient through time at one iteration of so many (`Monitor`).

    Ignite's trainers call ``backward()`` themselves, right after the loss function: so that is what
    tells the handler the loss. `recording` wraps it.

    Attributes:
        monitor: the monitor; its step is ``engine.state.iteration`` − 1.
    """

    def __init__(self, model: nn.Module, **options: Any) -> None:
        """Take what `Monitor` takes.

        Args:
            model: what is trained.
            options: of `Monitor`.
        """
        self.monitor = Monitor(model, **options)

    def recording(self, loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Return the loss function to give to the trainer.

        Args:
            loss: any function that returns the loss.
        """
        return self.monitor.recording(loss)

    def attach(self, engine: Engine) -> None:
        """Begin and end a step with each iteration of a trainer.

        Args:
            engine: the trainer.
        """
        engine.add_event_handler(Events.ITERATION_STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._end)
        engine.add_event_handler(Events.COMPLETED, lambda: self.monitor.close())
        engine.add_event_handler(Events.TERMINATE, lambda: self.monitor.close())

    def state_dict(self) -> dict[str, Any]:
        """Return what ``ignite.handlers.Checkpoint`` keeps."""
        return self.monitor.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint.

        Args:
            state_dict: what `state_dict` returned.
        """
        self.monitor.load_state_dict(state_dict)

    def _begin(self, engine: Engine) -> None:
        self.monitor.step = engine.state.iteration - 1
        self.monitor.__enter__()

    def _end(self) -> None:
        self.monitor.__exit__(None, None, None)
