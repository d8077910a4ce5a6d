"""A `Monitor` as a callback of Lightning."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any
from weakref import ref

from torch import Tensor, nn

from ..errors import PackageError
from ..flow import Sample
from .alarms import Alarm
from .history import History
from .monitor import SAMPLE, Monitor
from .to.tensorboard import TensorBoard
from .to.wandb import WandB

try:
    from lightning.pytorch import Callback  # pyright: ignore[reportMissingImports]
except ImportError:
    try:
        from pytorch_lightning import Callback  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise PackageError(
            "throughtime.watch.lightning needs Lightning, which is not installed: "
            "pip install lightning."
        ) from error

__all__ = ["MonitorCallback"]


class MonitorCallback(Callback):  # pyright: ignore[reportGeneralTypeIssues]
    """Measures the gradient through time at one training step of so many (`Monitor`).

    The loss is taken where Lightning hands it to ``backward()``. A step is numbered by
    ``trainer.global_step``; where gradients are accumulated, the first batch of it is measured.
    The history is in Lightning's checkpoints, so that a run that was killed and goes on from one
    keeps it whole.

    Attributes:
        monitor: the monitor; None before the first fit.
    """

    def __init__(
        self,
        *,
        every: int = 100,
        to: Any = None,
        lag: int | None = None,
        alarm: Callable[[Alarm], object] | None = None,
        sample: Sample | None = SAMPLE,
        steps: Iterable[type[nn.Module] | nn.Module | str] = (),
        keep: str | os.PathLike[str] | None = None,
    ) -> None:
        """Take what `Monitor` takes, but for the model.

        Args:
            every: one step of so many is measured.
            to: as for `Monitor`; None: the trainer's own loggers.
            lag: how many steps back the task needs.
            alarm: called when a finding appears or goes away.
            sample: how much is followed.
            steps: modules that are one step of a loop.
            keep: a folder for the first step that has an inf or NaN, with its batch.
        """
        super().__init__()
        self.monitor: Monitor | None = None
        self._to = to
        self._options: dict[str, Any] = {
            "every": every, "lag": lag, "alarm": alarm, "sample": sample, "steps": steps,
            "keep": keep,
        }  # fmt: skip
        self._loaded: dict[str, Any] | None = None
        self._model: Callable[[], Any] = lambda: None
        self._batch: Any = None

    @property
    def history(self) -> History:
        """What has been measured so far."""
        return History() if self.monitor is None else self.monitor.history

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Make the monitor when a fit begins; of the same model's next fit it goes on.

        Args:
            trainer: Lightning's.
            pl_module: the model.
            stage: "fit" or another one.
        """
        if stage != "fit":
            return
        if self.monitor is not None and self._model() is pl_module:
            self._loaded = self.monitor.state_dict()
        to = [_target(own) for own in trainer.loggers] if self._to is None else self._to
        self.monitor, self._model = Monitor(pl_module, to=to, **self._options), ref(pl_module)
        loaded, self._loaded = self._loaded, None
        if loaded is not None:
            self.monitor.load_state_dict(loaded)

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Begin a step.

        Args:
            trainer: knows the step's number.
            pl_module: the model.
            batch: what the step is computed from.
            batch_idx: not used.
        """
        if self.monitor is not None:
            self._batch = batch
            self.monitor.step = trainer.global_step
            self.monitor.__enter__()

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        """Measure the step.

        Args:
            trainer: not used.
            pl_module: not used.
            loss: what ``backward()`` is called on.
        """
        if self.monitor is not None:
            self.monitor.record(loss, batch=self._batch)

    def on_train_batch_end(self, *arguments: Any, **named: Any) -> None:
        """End the step, also where the batch was skipped.

        Args:
            arguments: not used.
            named: not used.
        """
        if self.monitor is not None:
            self._batch = None
            self.monitor.__exit__(None, None, None)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Let the step go.

        Args:
            trainer: not used.
            pl_module: not used.
            exception: what was raised.
        """
        if self.monitor is not None:
            self.monitor.__exit__(type(exception), exception, None)
            self.monitor.close()

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Write what waits to be written.

        Args:
            trainer: not used.
            pl_module: not used.
        """
        if self.monitor is not None:
            self.monitor.close()

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: the step and the history."""
        return self._loaded or {} if self.monitor is None else self.monitor.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint.

        Args:
            state_dict: what `state_dict` returned.
        """
        if self.monitor is None:
            self._loaded = state_dict or None
        elif state_dict:
            self.monitor.load_state_dict(state_dict)


def _target(logger: Any) -> Any:
    """Return what a Lightning logger writes by, where a monitor can write more there."""
    own = getattr(logger, "experiment", None)
    return own if TensorBoard.takes(own) or WandB.takes(own) else logger
