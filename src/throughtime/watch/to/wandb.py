"""To Weights & Biases."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from ...errors import InputValueError
from ..history import History
from ..record import Record
from .base import AbstractLogger, found, scalars

__all__ = ["WandB"]

STEP = "throughtime/step"


class WandB(AbstractLogger):
    """Logs into a run, over an axis of its own: the run's own step stays the user's."""

    name = "Weights & Biases"

    @staticmethod
    def takes(target: Any) -> bool:
        """Check whether it is a run, or the module ``wandb``, whose present run is then meant.

        Args:
            target: what was given as ``to=``.
        """
        if isinstance(target, ModuleType):
            return target.__name__ == "wandb"
        return type(target).__module__.partition(".")[0] == "wandb" and hasattr(target, "log")

    def __init__(self, target: Any) -> None:
        """Take the run.

        Args:
            target: a run, or ``wandb``.
        """
        self._target, self._run = target, None

    def write(self, record: Record, history: History) -> None:
        """Log the numbers, and the findings as text.

        Args:
            record: the step's.
            history: not used.

        Raises:
            InputValueError: ``wandb`` has no run.
        """
        del history
        run = self._target.run if isinstance(self._target, ModuleType) else self._target
        if run is None:
            raise InputValueError("wandb has no run; call wandb.init() first.")
        if run is not self._run:
            run.define_metric(STEP, hidden=True)
            run.define_metric("throughtime/*", step_metric=STEP)
            self._run = run
        said = {STEP: record.step, "throughtime/findings": found(record)}
        # The row is the user's to end: another step would be counted otherwise.
        run.log({**scalars(record), **said}, commit=False)
