"""The layer as one operation that ``torch.compile`` sees whole, whatever T is."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from .. import kernels
from ..cells import GRU, LSTM, Elman
from ..cells.base import AbstractCell
from ..schedule import Checkpointed, Full, Schedule, Truncated
from ..tape import Tape
from .grads import One, grads
from .plan import plan
from .scheduled import checkpointed, forward_keeping, truncated
from .through import check_schedule

__all__ = ["compiled_bptt", "kind_of"]

KINDS: dict[str, type[Elman] | type[LSTM] | type[GRU]] = {"LSTM": LSTM, "GRU": GRU}


def kind_of(cell: AbstractCell) -> str | None:
    """Give what `compiled_bptt` calls a cell of the package's three; None for any other."""
    if type(cell) is Elman:
        return cell.nonlinearity
    return next((name for name, kind in KINDS.items() if type(cell) is kind), None)


def compiled_bptt(
    kind: str,
    weights: dict[str, Tensor],
    through: Schedule,
    x: Tensor,
    s_0: Tensor,
    active: Tensor | None,
    reset: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Run one layer in one direction as one node of a compiled graph: h (T, B, H), s_T (B, S).

    Args:
        kind: "LSTM", "GRU", or an Elman cell's nonlinearity.
        weights: the cell's, by name.
        through: which steps are kept, recomputed or cut on the way back.
        x: inputs (T, B, I).
        s_0: the initial state (B, S).
        active: (T, B) bool, or None.
        reset: (T, B) bool, or None.
    """
    h, s_T, *_ = torch.ops.throughtime.layer(
        kind, ",".join(weights), *_told(through), x, s_0, list(weights.values()), active, reset
    )
    return h, s_T


def _told(through: Schedule) -> tuple[str, int | None, int | None, str | None]:
    """Give a schedule as an operation takes it: its name, window, every and memory."""
    check_schedule(through)
    if isinstance(through, Truncated):
        return "Truncated", through.window, through.every, None
    if isinstance(through, Checkpointed):
        memory = None if through.memory is None else str(through.memory)
        return "Checkpointed", None, through.every, memory
    return "Full", None, None, None


def _schedule(name: str, window: int | None, every: int | None, memory: str | None) -> Schedule:
    """Give the schedule that `_told` was given."""
    if name == "Truncated":
        assert window is not None
        return Truncated(window, every)
    if name == "Checkpointed":
        return Checkpointed(every, int(memory) if memory and memory.isdigit() else memory)
    return Full()


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
    cell, through = _cell(kind, names, weights), _schedule(name, window, every, memory)
    if isinstance(through, Checkpointed):
        found = forward_keeping(plan(through, cell, x, s_0), cell, x, s_0, active, reset)
        return [found.h, found.s_T.clone(), found.states]
    h, finals, tape, shared = kernels.outputs(cell, x, s_0, active, reset)
    assert tape is not None
    # An operation's outputs must not share memory.
    return [h.clone() if shared else h, kernels.joined(finals), tape.s, *tape.saved]


@torch.library.register_fake("throughtime::layer")
def _layer_fake(kind, names, name, window, every, memory, x, s_0, weights, active, reset):
    cell, through = _cell(kind, names, weights), _schedule(name, window, every, memory)
    T, B, _ = x.shape
    H, A, S = cell.hidden_size, cell.preact_size, cell.state_size
    outputs = [x.new_empty(T, B, H), x.new_empty(B, S)]
    if isinstance(through, Checkpointed):
        if isinstance(T, int) and isinstance(B, int):
            how = plan(through, cell, x, s_0)
            kept = len(list(how.descent(0, T, how.slots))) - 1
        else:  # it follows from values that the compiler leaves open
            kept = torch.library.get_ctx().new_dynamic_size()
        return [*outputs, x.new_empty(kept, B, S)]
    own = {Elman: (), LSTM: (A,), GRU: (A, H)}[type(cell)]
    return [*outputs, x.new_empty(T + 1, B, S), *(x.new_empty(T, B, width) for width in own)]


@torch.library.impl("throughtime::layer_back", "CompositeExplicitAutograd")
def _layer_back(
    kind, names, name, window, every, memory, x, s_0, kept, weights, active, reset, g_h, g_s
):
    cell, through = _cell(kind, names, weights), _schedule(name, window, every, memory)
    one: One | None = None
    if isinstance(through, Checkpointed):
        how, tape = plan(through, cell, x, s_0), Tape(x, s_0[None], (), active, reset)
        stretches = list(how.descent(0, x.shape[0], how.slots))
        one = partial(checkpointed, how, cell, tape, stretches, [s_0, *kept[0]])
    else:
        tape = Tape(x, kept[0], tuple(kept[1:]), active, reset)
        if isinstance(through, Truncated):
            one = partial(truncated, through, cell, tape)
    found = grads(cell, tape, [True] * (2 + len(weights)), g_h[None], g_s[None], one)
    return [g[0].contiguous() for g in found if g is not None]


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
