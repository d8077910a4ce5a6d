"""To TensorBoard: scalars, the findings as text, and the map over lag and step as an image."""

from __future__ import annotations

from typing import Any

from ..history import History
from ..raster import raster
from ..record import Record
from .base import AbstractLogger, found, scalars

__all__ = ["TensorBoard"]

# The map changes little from one record to the next, and is larger than all numbers.
MAP_EVERY = 10


class TensorBoard(AbstractLogger):
    """Writes by a ``SummaryWriter``, torch's or tensorboardX's."""

    name = "TensorBoard"

    @staticmethod
    def takes(target: Any) -> bool:
        """Check whether it is a ``SummaryWriter``, by its methods.

        Args:
            target: what was given as ``to=``.
        """
        return all(callable(getattr(target, m, None)) for m in ("add_scalar", "add_image"))

    def __init__(self, target: Any) -> None:
        """Take the writer.

        Args:
            target: a ``SummaryWriter``.
        """
        self._writer, self._said, self._written = target, "", 0
        self._last: tuple[int, History] | None = None

    def write(self, record: Record, history: History) -> None:
        """Write the scalars; the findings where they changed; the map now and then.

        Args:
            record: the step's.
            history: what the map is drawn of.
        """
        for name, value in scalars(record).items():
            self._writer.add_scalar(name, value, record.step)
        said = found(record)
        if said != self._said:
            self._said = said
            lines = [f"- **{f.severity}** {f.code}: {f.what}" for f in record.findings]
            text = "\n".join(lines) or "nothing found"
            self._writer.add_text("throughtime/findings", text, record.step)
        self._last = (record.step, history)
        self._written += 1
        if self._written % MAP_EVERY == 0:
            self._draw()

    def close(self) -> None:
        """Write the map as it is at the end; the writer stays open."""
        if self._last is not None:
            self._draw()
            self._writer.flush()

    def _draw(self) -> None:
        assert self._last is not None
        step, history = self._last
        self._last = None
        for layer in history.layers:
            name = f"throughtime/{layer}/gradient by lag"
            self._writer.add_image(name, raster(history, layer), step, dataformats="HWC")
