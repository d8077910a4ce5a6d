"""What `torch.jit.trace` records of a layer: the steps of the one input that it saw."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import UnsupportedError
from ..torch_state import is_jit_traced, is_to_onnx

__all__ = ["held_to_its_steps", "refuse_a_tracer", "refuse_the_older_exporter"]


def refuse_the_older_exporter() -> None:
    """Raise where the older exporter to ONNX traces, which drops what a trace would refuse.

    Raises:
        UnsupportedError: it does.
    """
    if is_to_onnx():
        raise UnsupportedError(
            "torch.onnx.export with dynamo=False writes the steps of one length, and leaves out "
            "the rest of a longer input. Pass dynamo=True, which takes any length."
        )


def refuse_a_tracer() -> None:
    """Raise where `torch.jit.trace` records what `tt.trace` records too.

    Raises:
        UnsupportedError: it does.
    """
    if is_jit_traced():
        raise UnsupportedError(
            "torch.jit.trace was called within tt.trace, whose gates and anchors would become part "
            "of the graph. Call it before or after."
        )


def held_to_its_steps(x: Tensor) -> Tensor:
    """Return x (T, B, I), such that a traced graph refuses another number of steps or axes.

    A trace unrolls the steps; on a longer input it would leave out the rest and say nothing. So it
    would take an input without a batch for rows, where it saw a batch.

    Args:
        x: the input of a layer that is traced.

    Raises:
        UnsupportedError: the older exporter to ONNX traces, which would drop the refusal.
    """
    refuse_the_older_exporter()
    T = int(x.shape[0])
    sizes = torch.ops.aten._shape_as_tensor(x)
    axes = torch.ops.aten._shape_as_tensor(sizes)[0]  # len() would be the tracer's own 3
    steps_told = (
        f"this graph was traced for T={T} steps, and the input has another number. "
        "torch.export.export and torch.onnx.export(dynamo=True) take any; or trace again."
    )
    axes_told = (
        "this graph was traced with a batch, or without one, and the input is otherwise. Give it "
        "as many axes as the trace saw, or trace again."
    )
    # The tracer leaves out what nothing depends on, so that x has to depend on the checks.
    one = torch.ones((), dtype=x.dtype, device=sizes.device)
    for alike, told in ((axes == 3, axes_told), (sizes[0] == T, steps_told)):
        one = torch.ops.aten._functional_assert_async.msg(alike, told, one)
    return x * one
