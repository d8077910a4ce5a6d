"""The run of one layer over any cell: what is looked at before, and which way the steps go."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .. import kernels, sweep
from ..cells import Function
from ..cells.computed import with_computed_weights
from ..errors import UnsupportedError
from ..node.bptt import own_precision
from ..node.eager import bptt
from ..node.recording import Recording
from ..schedules import FULL
from ..tape import joined
from ..torch_state import is_autocast, is_exported, is_jit_traced, is_open
from .inputs import Batch

__all__ = ["run_here"]


def run_here(
    module,
    batch: Batch,
    s_0: Tensor,
    recording: Recording | None,
    name: str,
    context: Mapping[str, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Run a cell, which may be one of the user's own, where its steps can be looked at.

    Args:
        module: the `Recurrent`.
        batch: its input.
        s_0: the initial state (B, S).
        recording: where a trace collects the run.
        name: the layer's name in the flow.
        context: what the step is given beside its weights, or None.

    Raises:
        UnsupportedError: an exporter wants a program for any number of steps.
    """
    if is_exported() and is_open(batch.x.shape[0]):
        raise UnsupportedError(
            f"an exporter writes the steps of a {type(module.cell).__name__} cell one by one, "
            "so their number has to be fixed, and dynamic_shapes leaves it open. Leave the axis of "
            "steps out of dynamic_shapes (the batch may stay open), or use tt.RNN, tt.LSTM, tt.GRU "
            "or tt.Recurrent over cells.Elman, cells.LSTM or cells.GRU, which take any number."
        )
    cell = module.cell if context is None else module.cell.with_context(context)
    if cell.given and is_autocast(batch.x):  # an encoder upstream puts out half precision
        dtype, given = batch.x.dtype, cell.given.items()
        cell = cell.with_context({n: t.to(dtype) if t.is_floating_point() else t for n, t in given})
    if not torch.compiler.is_compiling():
        cell = with_computed_weights(cell)
    few = False
    # A tracer would record the trial as a part of the model.
    tried = isinstance(cell, Function) and not is_jit_traced()
    if tried and (torch.is_grad_enabled() or batch.active is not None):
        few = _is_few(module, cell, batch, recording)
        with own_precision(batch.x):
            cell.examine(batch.x[0], s_0, anew=not few)
        module.cell.apart = cell.apart
        if batch.active is not None:
            cell.need_rows_apart(
                "cannot take rows of different lengths: those that have ended would still take "
                "part",
                "batches of one length",
                rows=s_0.shape[0],
            )
    if torch.compiler.is_compiling():  # torch.export, which wants operations that it can see
        return sweep.unroll(cell, batch.x, s_0, batch.active, batch.reset)
    if few:
        with own_precision(batch.x):
            return sweep.unroll(cell, batch.x, s_0, batch.active, batch.reset)
    h, parts = bptt(
        cell, batch.x, s_0, batch.active, batch.reset,
        through=module.through, recording=recording, name=name,
    )  # fmt: skip
    return h, joined(parts)


def _is_few(module, cell: Function, batch: Batch, recording: Recording | None) -> bool:
    """Check whether the steps are so few that a graph of them costs least."""
    if recording is not None or module.through != FULL or not torch.is_grad_enabled():
        return False
    return kernels.leaves_a_graph(cell, batch.x.shape[0])
