"""`Monitor`: the gradient through time, measured now and then in any training."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..diagnosis.examining import found_in
from ..diagnosis.look import Look
from ..errors import GraphError, InputTypeError, InputValueError, ThroughTimeError
from ..flow import Sample, Trace
from .alarms import Alarm, Alarms
from .history import History
from .keep import Keeper
from .quantities import measured
from .record import Found, Record
from .surroundings import generators, is_main, unwrapped
from .telling import Once, in_a_line
from .to import loggers
from .traced import Traced

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["Monitor"]

# What is followed where nothing else is said: a twentieth of the time of all of it, and less.
SAMPLE = Sample()


class Monitor:
    """Measures the gradient through time at one training step of so many, and writes it down.

    A step is a ``with monitor:`` block around the forward pass, and `record` before ``backward()``.
    Losses and gradients are the same to the last bit with a monitor and without, and the random
    state too (of a compiled model to rounding: a measured step runs uncompiled). What goes wrong in
    the monitor is warned of once (`MonitorWarning`) and never stops the training; only what is
    wrong from the first measured step on is raised, there.

    What is measured is of the summed loss, from a few of the steps at which it enters a layer and
    in a few rows of the batch (``sample``); `throughtime.watch.quantities.QUANTITIES` says what the
    numbers are. In a distributed training every process measures and the first one writes.

    Attributes:
        step: the number of the present block, or between two of the next one. It counts by itself,
            from 0; whoever counts otherwise sets it before the block.
        history: what has been measured so far (`throughtime.watch.History`).
        keeper: what ``keep`` asks for (`throughtime.watch.Keeper`), or None.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.GRU(3, 8))
        >>> monitor = tt.Monitor(model, every=2)
        >>> for _ in range(5):
        ...     with monitor:
        ...         loss = model(torch.randn(20, 4, 3))[0].pow(2).mean()
        ...     monitor.record(loss)
        ...     loss.backward()
        >>> monitor.history.series("0.l0", "horizon")[0]
        [0, 2, 4]
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        every: int = 100,
        to: Any = None,
        lag: int | None = None,
        alarm: Callable[[Alarm], object] | None = None,
        sample: Sample | None = SAMPLE,
        steps: Iterable[type[nn.Module] | nn.Module | str] = (),
        keep: str | os.PathLike[str] | None = None,
    ) -> None:
        """Take the model; nothing is changed in it.

        Args:
            model: what is trained, also wrapped by DistributedDataParallel or compiled.
            every: one step of so many is measured, the first one included.
            to: where it is written: a path (one line of JSON a step), a TensorBoard
                ``SummaryWriter``, a Weights & Biases run, ``mlflow`` or a run of it, a Lightning
                logger, an ``Accelerator``, any function (called with a dictionary), or a list of
                these.
            lag: how many steps back the task needs, where that is known.
            alarm: called with an `Alarm` when a finding of severity error or warning appears or
                goes away; ``print`` will do.
            sample: how much is followed; None: every step of every row, which takes many times as
                long as a step of the training.
            steps: modules that are one step of a loop, as `tt.trace` takes them.
            keep: a folder: every step is looked at for inf and NaN, and the first one that has any
                is written there for ``throughtime replay``, by a `throughtime.watch.Keeper`.

        Raises:
            InputTypeError: ``model`` is no module, ``every`` or ``lag`` no integer, ``to`` none of
                these, ``alarm`` no function, ``sample`` no `throughtime.flow.Sample`, ``steps`` no
                modules, ``keep`` no path.
            InputValueError: ``every`` or ``lag`` below 1.
            FileError: the folder of a path does not exist, or ``keep`` can be no folder.
        """
        if not isinstance(model, nn.Module):
            raise InputTypeError(f"model must be an nn.Module; got {type(model).__name__}.")
        _check_count("every", every)
        if lag is not None:
            _check_count("lag", lag)
        if alarm is not None and not callable(alarm):
            raise InputTypeError(f"alarm must be a function; got {type(alarm).__name__}.")
        if not isinstance(sample, Sample | None):
            raise InputTypeError(
                f"sample must be a throughtime.flow.Sample or None; got {type(sample).__name__}."
            )
        self.step, self.history = 0, History()
        self._model, self._every, self._lag, self._sample = model, every, lag, sample
        self._steps = steps if isinstance(steps, str | nn.Module | type) else _all(steps)
        self._loggers, self._alarms = loggers(to), Alarms(alarm)
        self.keeper = None if keep is None else Keeper(model, keep, steps=self._steps)
        self._next, self._begun, self._at, self._proven = 0, 0, -1, False
        self._traced, self._warn, self._waiting = Traced(model, self._steps), Once(), 0

    def __repr__(self) -> str:
        """Return what is watched, and how far it has come."""
        name = type(unwrapped(self._model)).__name__
        return (
            f"Monitor({name}, every={self._every}, step={self.step}, {len(self.history)} records)"
        )

    def __enter__(self) -> Monitor:
        """Begin a step; where it is to be measured, the model is traced until the block ends."""
        self._traced.drop()
        if self.step < self._begun:  # counted from an earlier step anew
            self._next = -(-self.step // self._every) * self._every
        self._at = self._begun = self.step
        if self.keeper is not None:
            self.keeper.before(self.step)
        if self.step < self._next:
            return self
        self._next = (self.step // self._every + 1) * self._every
        self._waiting += 1
        if self._waiting > 2:
            self._warn(
                "record",
                "two steps were traced and not recorded; call record(loss) before backward()",
            )
        self._traced.begin()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        """End the block; after an exception, or without a recurrent layer, nothing is measured."""
        self.step = self._at + 1
        try:
            self._traced.end(kind, *rest)
        except ThroughTimeError:  # the model holds nothing to follow
            self._traced.drop()
            if not self._proven:
                raise
        if kind is not None:
            self._traced.drop()
            self._at, self._waiting = -1, 0

    def record(self, loss: Tensor, *, step: int | None = None, batch: Any = None) -> None:
        """Measure a step that is traced, before ``backward()``; others are only kept, if asked.

        Of several losses of one step, as where gradients are accumulated, the first one stands for
        all.

        Args:
            loss: what ``backward()`` is called on; or one loss a time step, which are summed.
            step: the number to write; None: that of the block.
            batch: what the loss was computed from, targets too, for ``keep``: tensors in any lists,
                tuples and dictionaries. Without it the model's own arguments are kept.

        Raises:
            GraphError: there was no ``with monitor:`` block; or, at the first measured step, the
                loss does not depend on what ran in it.
            InputTypeError: at the first measured step, the loss is no floating-point tensor.
            ThroughTimeError: at the first measured step, whatever else cannot be measured.
        """
        if self._at < 0:
            raise GraphError(
                "record(loss) was called without a step: compute the loss inside `with monitor:` "
                "first, and call record once it is known."
            )
        if self.keeper is not None:
            self.keeper.after(loss, batch)
        watched, self._waiting = self._traced.take(), 0
        if watched is None:
            return
        try:
            self._traced.end()
            with generators():
                record = self._measured(watched, loss, self._at if step is None else step)
        except Exception as error:
            if not self._proven and isinstance(error, ThroughTimeError):
                raise
            self._warn("measure", f"step {self._at} was not measured: {in_a_line(error)}")
            return
        self._proven = True
        self._keep(record)

    def recording(self, loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Return a loss function that also records what it returns.

        For where the call of ``backward()`` is out of reach, as in a framework's own loop.

        Args:
            loss: any function that returns the loss.
        """

        def recorded(*args: Any, **named: Any) -> Tensor:
            value = loss(*args, **named)
            if self._at >= 0 and torch.is_grad_enabled():
                self.record(value)
            return value

        return recorded

    def figure(self, layer: str | None = None) -> Figure:
        """Return a Plotly figure: each layer's horizon over training, and the map of one layer.

        Args:
            layer: whose map over lag and training step is drawn; None: the one that reached the
                fewest steps at the end.

        Raises:
            InputValueError: nothing has been measured yet.
            LayerNotFoundError: there is no layer of that name.
            PackageError: Plotly is not installed.
        """
        from .chart import chart

        return chart(self.history, layer)

    def close(self) -> None:
        """Write what waits to be written, and close the files.

        The monitor can go on after it, but what ``keep`` asked for has ended.
        """
        self._traced.drop()
        if self.keeper is not None:
            self.keeper.close()
        for logger in self._loggers:
            try:
                logger.close()
            except Exception as error:
                self._warn(logger.name, f"{logger.name} could not be ended: {in_a_line(error)}")

    def state_dict(self) -> dict[str, Any]:
        """Return plain data for a checkpoint: the step and the history."""
        return {
            "version": 1,
            "step": self.step,
            "next": self._next,
            "history": self.history.state_dict(),
            "alarms": self._alarms.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint.

        Args:
            state: what `state_dict` returned.

        Raises:
            InputValueError: it is of another version, or not whole.
        """
        if state.get("version") != 1:
            raise InputValueError(f"a monitor's state has version 1; got {state.get('version')!r}.")
        if missing := {"step", "next", "history", "alarms"} - state.keys():
            raise InputValueError(f"a monitor's state has {min(missing)!r}; this one has not.")
        self.step, self._next = int(state["step"]), int(state["next"])
        self.history.load_state_dict(state["history"])
        self._alarms.load_state_dict(state["alarms"])

    def _measured(self, watched: Trace, loss: Tensor, step: int) -> Record:
        """Return what is measured of one step; nothing of its graph is kept."""
        if not isinstance(loss, Tensor) or not loss.is_floating_point():
            got = loss.dtype if isinstance(loss, Tensor) else type(loss).__name__
            raise InputTypeError(f"the loss must be a floating-point tensor; got {got}.")
        with torch.enable_grad():
            flow = watched.flow(loss.sum(), sample=self._sample)
        look = Look(flow, self._lag)
        found = tuple(Found(f.code, f.severity, f.layer, f.what) for f in found_in(look))
        values, profile = measured(look)
        return Record(step, time.time(), values, found, profile)

    def _keep(self, record: Record) -> None:
        """Put a record into the history and write it; each writer fails by itself."""
        self.history.add(record)
        alarms = self._alarms.hear(record.step, record.findings)
        if not is_main():
            return
        for logger in self._loggers:
            try:
                logger.write(record, self.history)
            except Exception as error:
                self._warn(
                    logger.name, f"{logger.name} failed at step {record.step}: {in_a_line(error)}"
                )
        try:
            self._alarms.ring(alarms)
        except Exception as error:
            self._warn("alarm", f"the alarm failed at step {record.step}: {in_a_line(error)}")


def _all(steps: Any) -> tuple[Any, ...]:
    if not isinstance(steps, Iterable):
        raise InputTypeError(f"steps must be modules, classes or paths; got {steps!r}.")
    return tuple(steps)


def _check_count(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputTypeError(f"{name} must be an integer; got {value!r}.")
    if value < 1:
        raise InputValueError(f"{name} must be at least 1; got {value}.")
