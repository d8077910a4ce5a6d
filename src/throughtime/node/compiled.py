"""The node as one operation for ``torch.compile``, whatever T is."""

from __future__ import annotations

import torch
from torch import Tensor

from ..cells import GRU, LSTM, Elman
from ..cells.base import AbstractCell
from ..errors import ShapeError, UnsupportedError
from ..kernels.choose import keeps_no_steps
from ..schedules import AbstractSchedule, Checkpointed, Full
from ..schedules.base import check_schedule
from ..tape import joined
from ..torch_state import is_to_onnx
from .gradients import keep, send_back

__all__ = ["cell_kind", "compiled_bptt"]

# An operation returns tensors, and torch's graph is none: the backward pass runs torch's module
# forward once more, from the initial state, which takes less time than single steps.
ANEW = Checkpointed(every=2**31 - 1)
KINDS: dict[str, type[Elman] | type[LSTM] | type[GRU]] = {"LSTM": LSTM, "GRU": GRU}


def cell_kind(cell: AbstractCell) -> str | None:
    """Return `compiled_bptt`'s name for one of the package's three main cells; None for others."""
    if type(cell) is Elman:
        return cell.nonlinearity
    # A loop: the compiler of torch 2.8 cannot read next(..., None).
    for name, kind in KINDS.items():
        if type(cell) is kind:
            return name
    return None


def compiled_bptt(
    kind: str,
    weights: dict[str, Tensor],
    through: AbstractSchedule,
    x: Tensor,
    s_0: Tensor,
    active: Tensor | None,
    reset: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Run one layer in one direction as one node of a compiled graph: h (T, B, H), s_T (B, S).

    Args:
        kind: "LSTM", "GRU", or an Elman cell's nonlinearity.
        weights: the cell's weights, by name.
        through: which steps are kept, recomputed or cut on the backward pass.
        x: inputs (T, B, I).
        s_0: the initial state (B, S).
        active: (T, B) bool, or None.
        reset: (T, B) bool, or None.
    """
    check_schedule(through)
    if type(through) is Full and keeps_no_steps(kind, x):
        through = ANEW
    h, s_T, *_ = torch.ops.throughtime.layer(
        kind, ",".join(weights), *through.told(), x, s_0, list(weights.values()), active, reset
    )
    return h, s_T


def _cell(kind: str, names: str, weights: list[Tensor]) -> Elman | LSTM | GRU:
    by_name = dict(zip(names.split(","), weights, strict=True))
    if kind in KINDS:
        return KINDS[kind].over(by_name)
    return Elman.over(by_name, nonlinearity=kind)


_SCHEDULE = "str through, int? window, int? every, str? memory"
torch.library.define(
    "throughtime::layer",
    f"(str kind, str names, {_SCHEDULE}, Tensor x, Tensor s_0, Tensor[] weights, Tensor? active, "
    "Tensor? reset) -> Tensor[]",
)
torch.library.define(
    "throughtime::layer_back",
    f"(str kind, str names, {_SCHEDULE}, Tensor x, Tensor s_0, Tensor[] kept, Tensor[] weights, "
    "Tensor? active, Tensor? reset, Tensor g_h, Tensor g_s) -> Tensor[]",
)


@torch.library.impl("throughtime::layer", "CompositeExplicitAutograd")
def _layer(kind, names, name, window, every, memory, x, s_0, weights, active, reset):
    if x.shape[0] == 0:  # an exported program does not ask
        raise ShapeError(f"input must have at least one time step; got T=0: {tuple(x.shape)}.")
    cell = _cell(kind, names, weights)
    through = AbstractSchedule.of(name, window, every, memory)
    # What checkpoints keep is the same for every engine, as the compiler has to know it before.
    states = not isinstance(through, Checkpointed)
    h, finals, kept, shared = keep(through, cell, x, s_0, active, reset, states=states)
    # An operation's outputs must not share memory.
    return [h.clone() if shared else h, joined(finals), *kept]


@torch.library.register_fake("throughtime::layer")
def _layer_fake(kind, names, name, window, every, memory, x, s_0, weights, active, reset):
    # The exporter takes an ExportedProgram apart with it; of a model it never gets here.
    if is_to_onnx():
        raise UnsupportedError(
            "an ExportedProgram has throughtime's layers as nodes of their own, which ONNX "
            "does not have. Give torch.onnx.export(..., dynamo=True) the model itself."
        )
    cell = _cell(kind, names, weights)
    shapes = AbstractSchedule.of(name, window, every, memory).kept_shapes(cell, x, s_0)
    T, B, _ = x.shape
    outputs = [x.new_empty(T, B, cell.hidden_size), x.new_empty(B, cell.state_size)]
    for shape in shapes:
        # A size that depends on values the compiler leaves open is None.
        sizes = [torch.library.get_ctx().new_dynamic_size() if n is None else n for n in shape]
        outputs.append(x.new_empty(sizes))
    return outputs


@torch.library.impl("throughtime::layer_back", "CompositeExplicitAutograd")
def _layer_back(
    kind, names, name, window, every, memory, x, s_0, kept, weights, active, reset, g_h, g_s
):
    cell = _cell(kind, names, weights)
    through = AbstractSchedule.of(name, window, every, memory)
    tape = through.tape(x, s_0, tuple(kept), active, reset)
    found = send_back(through, cell, tape, [True] * (2 + len(weights)), g_h, g_s)
    return [g.contiguous() for g in found if g is not None]


@torch.library.register_fake("throughtime::layer_back")
def _layer_back_fake(
    kind, names, name, window, every, memory, x, s_0, kept, weights, active, reset, g_h, g_s
):
    return [x.new_empty(i.shape) for i in (x, s_0, *weights)]


def _keep(ctx, inputs, output) -> None:
    *ctx.how, x, s_0, weights, ctx.active, ctx.reset = inputs
    _, _, *kept = output
    ctx.kept = len(kept)
    ctx.save_for_backward(x, s_0, *kept, *weights)


def _back(ctx, g_outputs):
    x, s_0, *rest = ctx.saved_tensors
    kept, weights = rest[: ctx.kept], rest[ctx.kept :]
    g_h, g_s = g_outputs[0], g_outputs[1]
    g_x, g_s0, *g_weights = torch.ops.throughtime.layer_back(
        *ctx.how, x, s_0, kept, weights, ctx.active, ctx.reset, g_h, g_s
    )
    return *(None,) * 6, g_x, g_s0, g_weights, None, None


torch.library.register_autograd("throughtime::layer", _back, setup_context=_keep)
