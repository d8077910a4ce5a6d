"""`trace`: watching a model's recurrent layers while it runs, and what can be asked afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from ..errors import GraphError, InputTypeError, InputValueError, LayerNotFoundError, ShapeError
from ..layers.modules import GRU, LSTM, RNN
from ..layers.recurrent import Recurrent
from ..node.recording import Recording
from .facts import Beginning, gather
from .flow import Flow
from .measure import measure
from .watch import Watch

__all__ = ["Trace", "trace"]

TRACEABLE = (nn.RNN, nn.LSTM, nn.GRU, RNN, LSTM, GRU, Recurrent)


class Trace:
    """What a model's recurrent layers did while it was watched; `flow` takes it apart."""

    def __init__(self, model: nn.Module | None = None) -> None:
        """Begin with nothing; of ``model`` it is noted when."""
        self.recording = Recording()
        self.beginning = None if model is None else Beginning.of(model)

    def flow(
        self,
        losses: Tensor,
        *,
        window: int | None = None,
        every: int | None = None,
        memory: int = 256 * 2**20,
        per_row: bool = False,
    ) -> Flow:
        """Take the gradient of the losses apart, by the loss and by the step it reached (eq. 5).

        Args:
            losses: 1-D, one entry a loss (one a time step, usually, summed or averaged over the
                batch); or a scalar, which is then split by the step at which its gradient enters
                each layer.
            window: follow each loss at most this many steps back; norms beyond are NaN.
            every: of so many losses follow one only, the last one included.
            memory: bytes that the sweeps may use at a time for what lies between layers.
            per_row: whether each loss may come from one batch row alone. Without it such losses
                are refused, since an axis that was not reduced looks the same.

        Returns:
            Each layer's `LayerFlow` by name.

        Hooks on tensors and modules that were registered from the beginning of the trace on are
        left out: what is measured is the gradient without them, and none of them is called.

        Raises:
            ShapeError: losses of more than one axis, or none at all.
            GraphError: losses that do not depend on the traced layers.
            InputValueError: a loss for each batch row; a window or ``every`` below 1.
            InputTypeError: losses that are no floating-point tensor.

        Cost:
            one sweep a layer over all losses, T²·B·S·A operations; memory T·B·S times a constant,
            and V·T·B for the norms.
        """
        _check_losses(losses)
        for name, value in (("window", window), ("every", every)):
            whole = isinstance(value, int) and not isinstance(value, bool)
            if value is not None and (not whole or value < 1):
                raise InputValueError(f"{name} must be an integer of at least 1; got {value!r}.")
        if not self.recording.calls:
            raise GraphError(
                "no recurrent layer ran inside the trace with gradients enabled. Run the model "
                "inside `with tt.trace(model) as trace:`, not under torch.no_grad(); of two "
                "traces of one model, the inner one watches."
            )
        if not losses.requires_grad:
            raise GraphError(
                "the losses do not depend on any traced layer: they require no grad. Compute them "
                "from what the model returned, without torch.no_grad() or .detach() in between."
            )
        flow = measure(self.recording, losses, window, every, memory, per_row)
        if self.beginning is not None:
            flow.facts = gather(self.recording, losses, self.beginning)
        return flow


def _check_losses(losses: Tensor) -> None:
    if not isinstance(losses, Tensor) or not losses.is_floating_point():
        got = losses.dtype if isinstance(losses, Tensor) else type(losses).__name__
        raise InputTypeError(f"losses must be a floating-point tensor, 1-D or a scalar; got {got}.")
    if losses.dim() > 1 or losses.numel() == 0:
        raise ShapeError(
            "losses must be 1-D with one entry a loss, or a scalar; got shape "
            f"{tuple(losses.shape)}. Reduce the batch and feature axes: losses.mean((1, 2)), say."
        )


@contextmanager
def trace(model: nn.Module) -> Iterator[Trace]:
    """Watch the recurrent layers of a model while it runs.

    Inside, every `nn.RNN`, `nn.LSTM`, `nn.GRU` and every layer of this package in ``model`` runs
    by this package's sweeps, which keep what `Trace.flow` needs; results are the same to rounding.
    On leaving, also by an exception, the model is as it was.

    Args:
        model: any module that holds such layers, or is one. Subclasses with a forward of their
            own, `nn.LSTMCell` and its like are not seen.

    Yields:
        The trace.

    Raises:
        InputTypeError: ``model`` is no module.
        LayerNotFoundError: ``model`` holds no such layer.

    Example:
        >>> model = torch.nn.GRU(3, 5)
        >>> with tt.trace(model) as trace:
        ...     losses = model(torch.randn(7, 2, 3))[0].pow(2).mean((1, 2))
        >>> sorted(trace.flow(losses))
        ['l0']
    """
    layers = _recurrent_layers(model)
    watched = Trace(model)
    begun: list[Watch] = []
    try:
        for path, module in layers:
            watch = Watch.over(module)
            watch.begin(watched.recording, path)
            begun.append(watch)
        yield watched
    finally:
        for watch in begun:
            watch.end(watched.recording)


def _recurrent_layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    if not isinstance(model, nn.Module):
        raise InputTypeError(f"model must be an nn.Module; got {type(model).__name__}.")
    found = [(path, module) for path, module in model.named_modules() if _is_traceable(module)]
    if not found:
        raise LayerNotFoundError(
            f"{type(model).__name__} holds no recurrent layer that can be traced: no nn.RNN, "
            "nn.LSTM, nn.GRU or throughtime layer. A loop over nn.LSTMCell or a layer of one's "
            "own can be written as tt.Recurrent(tt.cells.Function(step, ...))."
        )
    return found


def _is_traceable(module: nn.Module) -> bool:
    """Check whether the module's forward is one that the sweeps can stand in for."""
    return isinstance(module, TRACEABLE) and type(module).forward in {
        kind.forward for kind in TRACEABLE
    }
