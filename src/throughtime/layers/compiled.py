"""The layer as one operation that ``torch.compile`` sees whole, whatever T is."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import kernels
from ..cells import GRU, LSTM, Elman
from ..cells.base import AbstractCell
from ..tape import Tape
from .grads import grads

__all__ = ["compiled_bptt"]

KINDS: dict[str, type[Elman] | type[LSTM] | type[GRU]] = {"LSTM": LSTM, "GRU": GRU}


def compiled_bptt(
    kind: str,
    weights: dict[str, Tensor],
    x: Tensor,
    s_0: Tensor,
    active: Tensor | None,
    reset: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Run one layer in one direction as one node of a compiled graph: h (T, B, H), s_T (B, S).

    Args:
        kind: "LSTM", "GRU", or an Elman cell's nonlinearity.
        weights: the cell's, by name.
        x: inputs (T, B, I).
        s_0: the initial state (B, S).
        active: (T, B) bool, or None.
        reset: (T, B) bool, or None.
    """
    h, s_T, *_ = torch.ops.throughtime.layer(
        kind, ",".join(weights), x, s_0, list(weights.values()), active, reset
    )
    return h, s_T


def _cell(kind: str, names: str, weights: list[Tensor]) -> Elman | LSTM | GRU:
    by_name = dict(zip(names.split(","), weights, strict=True))
    if kind in KINDS:
        return KINDS[kind].over(by_name)
    return Elman.over(by_name, nonlinearity=kind)


torch.library.define(
    "throughtime::layer",
    "(str kind, str names, Tensor x, Tensor s_0, Tensor[] weights, Tensor? active, Tensor? reset)"
    " -> Tensor[]",
)
torch.library.define(
    "throughtime::layer_back",
    "(str kind, str names, Tensor x, Tensor s, Tensor[] own, Tensor[] weights, Tensor? active, "
    "Tensor? reset, Tensor g_h, Tensor g_s) -> Tensor[]",
)


@torch.library.impl("throughtime::layer", "CompositeExplicitAutograd")
def _layer(kind, names, x, s_0, weights, active, reset) -> list[Tensor]:
    cell = _cell(kind, names, weights)
    h, s_T, tape = kernels.outputs(cell, x, s_0, active, reset)
    assert tape is not None
    # An operation's outputs must not share memory.
    shares = active is None and type(cell) is not LSTM
    return [h.clone() if shares else h, s_T, tape.s, *tape.saved]


@torch.library.register_fake("throughtime::layer")
def _layer_fake(kind, names, x, s_0, weights, active, reset) -> list[Tensor]:
    cell = _cell(kind, names, weights)
    T, B, _ = x.shape
    H, A, S = cell.hidden_size, cell.preact_size, cell.state_size
    own = {Elman: (), LSTM: (A,), GRU: (A, H)}[type(cell)]
    return [
        x.new_empty(T, B, H),
        x.new_empty(B, S),
        x.new_empty(T + 1, B, S),
        *(x.new_empty(T, B, width) for width in own),
    ]


@torch.library.impl("throughtime::layer_back", "CompositeExplicitAutograd")
def _layer_back(kind, names, x, s, own, weights, active, reset, g_h, g_s) -> list[Tensor]:
    cell = _cell(kind, names, weights)
    tape = Tape(x, s, tuple(own), active, reset)
    found = grads(cell, tape, [True] * (2 + len(weights)), g_h[None], g_s[None])
    return [g[0].contiguous() for g in found if g is not None]


@torch.library.register_fake("throughtime::layer_back")
def _layer_back_fake(kind, names, x, s, own, weights, active, reset, g_h, g_s) -> list[Tensor]:
    return [x.new_empty(i.shape) for i in (x, s[0], *weights)]


def _keep(ctx, inputs, output) -> None:
    kind, names, x, _, weights, active, reset = inputs
    _, _, s, *own = output
    ctx.save_for_backward(x, s, *own, *weights)
    ctx.names, ctx.kind, ctx.active, ctx.reset, ctx.own = names, kind, active, reset, len(own)


def _back(ctx, g_outputs):
    x, s, *rest = ctx.saved_tensors
    own, weights = rest[: ctx.own], rest[ctx.own :]
    g_h, g_s = g_outputs[0], g_outputs[1]
    g_x, g_s0, *g_weights = torch.ops.throughtime.layer_back(
        ctx.kind, ctx.names, x, s, own, weights, ctx.active, ctx.reset, g_h, g_s
    )
    return None, None, g_x, g_s0, g_weights, None, None


torch.library.register_autograd("throughtime::layer", _back, setup_context=_keep)
