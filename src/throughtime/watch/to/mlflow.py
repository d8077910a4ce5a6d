"""To MLflow."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from ...errors import InputValueError
from ..history import History
from ..record import Record
from .background import Background
from .base import AbstractLogger, found, scalars

__all__ = ["MLflow"]


class MLflow(AbstractLogger):
    """Logs into a run from a thread of its own: a server that is lost keeps a call for minutes."""

    name = "MLflow"

    @staticmethod
    def takes(target: Any) -> bool:
        """Check whether it is a run, or the module ``mlflow``, whose present run is then meant.

        Args:
            target: what was given as ``to=``.
        """
        if isinstance(target, ModuleType):
            return target.__name__ == "mlflow"
        return type(target).__module__.partition(".")[0] == "mlflow" and hasattr(target, "info")

    def __init__(self, target: Any) -> None:
        """Take the run.

        Args:
            target: a run, or ``mlflow``.
        """
        self._target, self._client = target, None
        self._said = ""
        self._background = Background()

    def write(self, record: Record, history: History) -> None:
        """Log the numbers, and the findings as a tag.

        Args:
            record: the step's.
            history: not used.

        Raises:
            InputValueError: ``mlflow`` has no run.
        """
        del history
        run = self._target
        if isinstance(run, ModuleType):  # which thread has which run is known only here
            run = run.active_run()
            if run is None:
                raise InputValueError("mlflow has no run; call mlflow.start_run() first.")
        said = found(record)
        changed, self._said = said != self._said, said
        self._background.put(lambda: self._log(run.info.run_id, record, said if changed else ""))

    def close(self) -> None:
        """Wait for what has not been sent, a few seconds at most."""
        self._background.close()

    def _log(self, run: str, record: Record, said: str) -> None:
        # Whoever has a run has the package.
        import mlflow  # pyright: ignore[reportMissingImports]
        from mlflow.entities import Metric  # pyright: ignore[reportMissingImports]

        if self._client is None:
            self._client = mlflow.MlflowClient()
        at = int(record.time * 1000)
        metrics = [Metric(name, value, at, record.step) for name, value in scalars(record).items()]
        self._client.log_batch(run, metrics=metrics)
        if said:
            self._client.set_tag(run, "throughtime.findings", said)
