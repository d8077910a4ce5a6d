"""The pairs of runs that `throughtime bench` times: ours and the other side's, on the same data."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from .. import cells, kernels
from ..layers import GRU, LSTM, RNN
from .bench_rows import KINDS
from .rivals import RIVALS, agree

__all__ = ["MAP_SHAPE", "PAIRS", "SAMPLED", "calls"]

PAIRS = {"RNN": (RNN, nn.RNN, 1), "GRU": (GRU, nn.GRU, 3), "LSTM": (LSTM, nn.LSTM, 4)}
MAP_SHAPE, SAMPLED = (16, 200, 128, 128), 8
CELLS: dict[str, Callable[..., cells.AbstractCell]] = {
    "RNN": partial(cells.Elman.over, nonlinearity="tanh"),
    "GRU": cells.GRU.over,
    "LSTM": cells.LSTM.over,
}
Calls = tuple[Callable[[], object], Callable[[], object]]


def calls(kind: str, layer: str, shape: tuple[int, int, int, int]) -> Calls:
    """Return one run of ours and one of the other side's, over the same weights and input.

    Args:
        kind: a key of `KINDS`.
        layer: a key of `PAIRS`.
        shape: (B, T, I, H).

    Raises:
        CheckError: the other side's gradients are not ours.
    """
    B, T, I, H = shape
    dtype = torch.float64 if kind == "train64" else torch.float32
    torch.manual_seed(0)
    own, other, _ = PAIRS[layer]
    mine, theirs = own(I, H).to(dtype), other(I, H).to(dtype)
    mine.load_state_dict(theirs.state_dict())
    x = torch.randn(T, B, I, dtype=dtype, requires_grad=kind != "infer")
    g = torch.randn(T, B, H, dtype=dtype)
    if kind == "infer":
        return _no_grad(mine, x), _no_grad(theirs, x)
    if kind == "map":
        return _map_calls(layer, theirs, x, g)
    if KINDS[kind].ragged:
        return _ragged_calls(kind, mine, theirs, x, g)
    if kind in RIVALS:
        return _rival_calls(kind, layer, mine, x, g)
    return (
        lambda: _step(mine, x, lambda: mine(x)[0], g),
        lambda: _step(theirs, x, lambda: theirs(x)[0], g),
    )


def _step(model: nn.Module, x: Tensor, call: Callable[[], Tensor], g: Tensor) -> None:
    """Run one training step: forward, backward, every gradient anew."""
    model.zero_grad(set_to_none=True)
    x.grad = None
    call().backward(g)


def _no_grad(model: nn.Module, x: Tensor) -> Callable[[], object]:
    def run() -> None:
        with torch.no_grad():
            model(x)

    return run


def _ragged_calls(kind: str, mine: nn.Module, theirs: nn.Module, x: Tensor, g: Tensor) -> Calls:
    """Return both runs for rows of lengths drawn from 1…T; torch.nn packs or pads them."""
    T, B, _ = x.shape
    lengths = torch.randint(1, T + 1, (B,))
    if kind == "padded":
        ragged = g * (torch.arange(T)[:, None, None] < lengths[:, None])
        return (
            lambda: _step(mine, x, lambda: mine(x, lengths=lengths)[0], ragged),
            lambda: _step(theirs, x, lambda: theirs(x)[0], ragged),
        )
    pack = partial(nn.utils.rnn.pack_padded_sequence, lengths=lengths, enforce_sorted=False)

    def ours() -> None:
        _step(mine, x, lambda: mine(x, lengths=lengths)[0], g)

    if kind == "repadded":
        pad = partial(nn.utils.rnn.pad_packed_sequence, total_length=T)
        return ours, lambda: _step(theirs, x, lambda: pad(theirs(pack(x))[0])[0], g)
    flat = pack(g).data
    return (
        ours,
        lambda: _step(theirs, x, lambda: theirs(pack(x))[0].data, flat),
    )


def _rival_calls(kind: str, layer: str, mine: nn.Module, x: Tensor, g: Tensor) -> Calls:
    """Return both runs, once the gradients of one step each have been compared."""
    weights = {name.removesuffix("_l0"): w for name, w in mine.named_parameters()}
    rival = RIVALS[kind](layer, weights, x, g)

    def ours() -> None:
        _step(mine, x, lambda: mine(x)[0], g)

    ours()
    rival.run()
    leaves = {**weights, "input": x}
    agree({n: leaf.grad for n, leaf in leaves.items() if leaf.grad is not None}, rival.gradients())
    return ours, rival.run


def _map_calls(layer: str, theirs: nn.Module, x: Tensor, g: Tensor) -> Calls:
    """Return the map of all (t, k) in one sweep, and eight of the T autograd calls it replaces."""
    T, B, _ = x.shape
    weights = {name.removesuffix("_l0"): w for name, w in theirs.named_parameters()}
    cell = CELLS[layer](weights)
    tape = kernels.forward(cell, x.detach(), x.new_zeros(B, cell.state_size))
    h = theirs(x)[0]

    def ours() -> None:
        kernels.losses(cell, tape, g, enters=torch.arange(1, T + 1))

    def autograd() -> None:
        for t in range(T // (2 * SAMPLED), T, T // SAMPLED):
            torch.autograd.grad(h[t], x, g[t], retain_graph=True)

    return ours, autograd
