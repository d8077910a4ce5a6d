"""`trace`: watching a model's recurrent layers while it runs, and what can be asked afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from ..errors import (
    DeviceError,
    GraphError,
    InputTypeError,
    InputValueError,
    LayerNotFoundError,
    ShapeError,
)
from ..node.recording import Recording
from .checkpoints import kept_whole
from .facts import Beginning, gather
from .flow import Flow
from .followed import entry_of, follow_step, left_out
from .forward_wrapper import Watch
from .marking import taking_marks
from .measure import measure
from .runs import left_state
from .stance import uncompiled
from .windows import Sample

__all__ = ["Trace", "trace"]

# What stands for no model at all; None is more likely a mistake.
MARKS_ALONE = nn.Module()


class Trace:
    """What a model's recurrent layers did while it was watched; `flow` takes it apart."""

    def __init__(self, model: nn.Module | None = None, unchanged: bool = False) -> None:
        """Begin with nothing; of ``model`` it is noted when."""
        self.recording = Recording(unchanged=unchanged)
        self.beginning = None if model is None else Beginning.of(model)

    def __repr__(self) -> str:
        """Return what was watched, and how much of it ran."""
        calls = len(self.recording.calls)
        return f"Trace({calls} recurrent {'call' if calls == 1 else 'calls'})"

    def flow(
        self,
        losses: Tensor,
        *,
        window: int | None = None,
        every: int | None = None,
        memory: int = 256 * 2**20,
        per_row: bool = False,
        sample: Sample | None = None,
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
            sample: of a scalar, from how many steps and in how many rows it is followed, where a
                few are enough: `throughtime.flow.Sample`. Rows that are left out have ``enters`` 0;
                what sums over the loss, such as ``total_norms``, is that of all rows.

        Returns:
            Each layer's `LayerFlow` by name.

        Hooks on tensors and modules that were registered from the beginning of the trace on are
        left out: what is measured is the gradient without them, and none of them is called.

        Raises:
            ShapeError: losses of more than one axis, or none at all; a batch without rows.
            GraphError: losses that do not depend on the traced layers.
            DeviceError: losses on the device meta.
            InputValueError: a loss for each batch row; a window or ``every`` below 1; a sample of
                losses that are no scalar, or beside ``every``.
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
        if sample is not None and (losses.dim() or every is not None):
            raise InputValueError(
                "sample= is for a scalar, without every=; pass losses.sum(), or leave it out."
            )
        if not self.recording.calls:
            raise GraphError(
                "no recurrent layer ran inside the trace with gradients enabled. Run the model "
                "inside `with tt.trace(model) as trace:`, not under torch.no_grad() or "
                "torch.inference_mode(); of two traces of one model, the inner one watches"
                f"{_looking_so(self.recording.skipped)}."
            )
        if not any(len(left_state(call)) for call in self.recording.calls):
            raise ShapeError("the batch has no rows; give a batch of at least one.")
        if losses.is_meta:
            raise DeviceError(
                "the losses are on the device meta, which holds no numbers to measure; move the "
                "model with .to_empty(device='cpu'), load its weights, and give a batch there."
            )
        if not losses.requires_grad:
            raise GraphError(
                "the losses do not depend on any traced layer: they require no grad. Compute them "
                "from what the model returned, without torch.no_grad() or .detach() in between."
            )
        flow, layout = measure(self.recording, losses, window, every, memory, per_row, sample)
        if self.beginning is not None:
            flow.facts = gather(self.recording, layout.runs, losses, self.beginning)
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
def trace(
    model: nn.Module = MARKS_ALONE,
    *,
    steps: Iterable[type[nn.Module] | nn.Module | str] = (),
    unchanged: bool = False,
) -> Iterator[Trace]:
    """Watch what is recurrent in a model while it runs.

    Inside, every `nn.RNN`, `nn.LSTM`, `nn.GRU` and every layer of this package in ``model`` runs
    by this package's sweeps, which keep what `Trace.flow` needs; so do those that a subclass calls
    by ``super().forward``. Each call of an `nn.LSTMCell`, `nn.GRUCell` or `nn.RNNCell`, of a
    module named in ``steps`` and of `mark` is one step. Results are the same to rounding. On
    leaving, also by an exception, the model is as it was.

    Models under `torch.compile` run uncompiled meanwhile, and non-reentrant activation
    checkpointing keeps its activations.

    Args:
        model: any module; left out, only `mark` and `mark_steps` are taken down, wherever they are.
        steps: modules that are one step of a loop: classes, modules, or paths in ``model``. Their
            state is what comes back into their next call: of what they return, and of what they
            keep in attributes and buffers, also in a list, tuple or dictionary of one. Of a kept
            state the one before step 1 is not known.
        unchanged: whether `nn.RNN`, `nn.LSTM` and `nn.GRU` go on by torch's own kernels, so that
            results and gradients are the same to the last bit. What is measured is then computed
            beside them, at the cost of another forward pass, and where they have a dropout between
            their layers, with another mask.

    Yields:
        The trace.

    Raises:
        InputTypeError: ``model`` is no module; what ``steps`` holds is no class, module or path.
        InputValueError: something in ``steps`` that matches no module.
        LayerNotFoundError: ``model`` holds nothing to follow, and nothing was marked.

    Example:
        >>> model = torch.nn.GRU(3, 5)
        >>> with tt.trace(model) as trace:
        ...     losses = model(torch.randn(7, 2, 3))[0].pow(2).mean((1, 2))
        >>> sorted(trace.flow(losses))
        ['l0']
    """
    if not isinstance(model, nn.Module):
        raise InputTypeError(f"model must be an nn.Module; got {type(model).__name__}.")
    inside = None if model is MARKS_ALONE else model
    named = steps_in(model, steps)
    watched = Trace(model, unchanged)
    watched.recording.skipped.update(left_out(model, named))
    begun: list[Watch] = []
    try:
        with uncompiled(), kept_whole(), taking_marks(watched.recording, inside):
            for path, module in model.named_modules():
                entry = follow_step if module in named else entry_of(module)
                if entry is not None:
                    watch = Watch.over(module)
                    watch.begin(watched.recording, path, entry)
                    begun.append(watch)
            yield watched
    finally:
        for watch in begun:
            watch.end(watched.recording)
    if inside is not None and not begun and not watched.recording.calls:
        raise LayerNotFoundError(
            f"{type(model).__name__} holds nothing recurrent that can be followed: no nn.RNN, "
            "nn.LSTM, nn.GRU, no cell of them and no throughtime layer"
            f"{_looking_so(watched.recording.skipped)}. Name a module that is one "
            "step, tt.trace(model, steps=[MyCell]), or mark the state in the loop: "
            "h = tt.mark('h', h)."
        )


def _looking_so(skipped: dict[str, str]) -> str:
    """Return what looks recurrent all the same, as the end of a sentence."""
    said = [f"{path or 'it'} {why.partition(';')[0]}" for path, why in skipped.items()]
    return f"; {', '.join(said[:3])}" if said else ""


def steps_in(
    model: nn.Module, steps: Iterable[type[nn.Module] | nn.Module | str]
) -> set[nn.Module]:
    """Return the modules that ``steps`` names.

    Raises:
        InputTypeError: it holds what is no class, module or path.
        InputValueError: it holds what matches no module.
    """
    if isinstance(steps, str | nn.Module | type):
        steps = [steps]
    paths = dict(model.named_modules())
    found: set[nn.Module] = set()
    for asked in steps:
        if isinstance(asked, str):
            own = [paths[asked]] if asked in paths else []
        elif isinstance(asked, nn.Module):
            own = [module for module in paths.values() if module is asked]
        elif isinstance(asked, type) and issubclass(asked, nn.Module):
            own = [module for module in paths.values() if isinstance(module, asked)]
        else:
            raise InputTypeError(
                f"steps must hold modules, their classes or their paths; got {asked!r}."
            )
        if not own:
            what = (
                asked
                if isinstance(asked, str)
                else getattr(asked, "__name__", type(asked).__name__)
            )
            raise InputValueError(
                f"steps names {what!r}, and {type(model).__name__} holds no such module; it has "
                f"{', '.join(sorted({type(m).__name__ for m in paths.values()})) or 'none'}."
            )
        found.update(own)
    return found
