"""Gradient flossing: the leading Lyapunov exponents pulled to 0 before training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..cells.base import AbstractCell
from ..errors import InputTypeError, InputValueError
from ..layers import Recurrent
from ..layers.directions import cell_of
from ..shapes import check_shape
from ..sweep import forward
from .base import Case, Change, Remedy, plain_weights
from .places import Place
from .weight_blocks import gates_of, is_plain, weight_suffixes

__all__ = ["FLOSSING", "floss_", "leading_exponents"]

M = TypeVar("M", bound=nn.Module)
# Rows and steps of a batch that are enough for the exponents' gradient.
ROWS, STEPS = 4, 60


def leading_exponents(cell: AbstractCell, x: Tensor, n: int) -> Tensor:
    """Return the n leading exponents over a batch, (B, n), with a graph to the weights (eq. 9).

    As `LayerFlow.lyapunov`, of vectors that are sent back and made orthonormal at every step; but
    every operation is one that autograd goes back through.

    Args:
        cell: whose `step` and `vjp` are differentiable torch operations, as those of all cells of
            this package that are built of W_x and W_h are.
        x: (T, B, I).
        n: how many.

    Example:
        >>> cell = tt.cells.Elman(2, 3, "identity").double()
        >>> with torch.no_grad():
        ...     _ = cell.weight_hh.copy_(torch.diag(torch.tensor([.5, .25, .125])))
        >>> found = leading_exponents(cell, torch.zeros(40, 1, 2).double(), 1)
        >>> bool((found - torch.tensor(.5).log()).abs() < .05), found.requires_grad
        (True, True)
    """
    T, B, S = x.shape[0], x.shape[1], cell.state_size
    a, s, kept = cell.drive(x), x.new_zeros(B, S), []
    for t in range(T):
        s, saved = cell.step(a[t], s)
        kept.append(saved)
    draw = torch.Generator().manual_seed(0)
    noise = torch.randn(S, n, generator=draw, dtype=torch.float64)
    q = torch.linalg.qr(noise)[0].to(x).T[:, None, :].expand(n, B, S)
    logs = x.new_zeros(B, n)
    for saved in reversed(kept):
        q, r = torch.linalg.qr(cell.vjp(saved, q)[0].permute(1, 2, 0))
        q = q.permute(2, 0, 1)
        logs = logs + r.diagonal(dim1=1, dim2=2).abs().clamp(min=1e-30).log()
    return (logs / T).sort(1, descending=True).values


def floss_(
    layer: M, input: Tensor, *, exponents: int = 8, updates: int = 60, rate: float = 0.01
) -> M:
    """Pull the leading Lyapunov exponents to 0 by gradient descent, and return the layer.

    The loss is the mean of λ_i² over the leading exponents; Adam changes the layer's own weights.
    It is done before training, once. Of several layers the lowest reads ``input``, and each other
    one what comes out of the one below.

    Args:
        layer: an RNN, LSTM or GRU of ``torch.nn`` or of this package, of one direction.
        input: what it reads, (T, B, I), or (B, T, I) with ``batch_first``; the first 4 rows and 60
            steps are used.
        exponents: how many; at most the size of the state.
        updates: how many steps of Adam.
        rate: its learning rate.

    Returns:
        ``layer`` itself.

    Raises:
        InputTypeError: ``layer`` is no such layer.
        InputValueError: it has two directions, or a count below 1.

    Cost:
        ``updates`` times T steps with a QR of (S, exponents) each, and back.

    Source:
        Engelken (2023), "Gradient flossing: improving gradient descent through dynamic control of
        Jacobians".

    Example:
        >>> layer, x = torch.nn.RNN(3, 8), torch.randn(20, 2, 3)
        >>> def leading():
        ...     return leading_exponents(layer_cell(layer), x, 1).mean().item()
        >>> before = leading(); _ = floss_(layer, x, exponents=1, updates=20)
        >>> before < leading() < 0.1
        True
    """
    gates_of(layer)  # says so where it is no such layer
    if not isinstance(layer, (nn.RNNBase, Recurrent)):
        raise InputTypeError(
            f"flossing needs a layer that runs over a sequence; got {type(layer).__name__}."
        )
    if getattr(layer, "bidirectional", False):
        raise InputValueError("flossing goes one direction; this layer has two.")
    for name, count in (("exponents", exponents), ("updates", updates)):
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise InputValueError(f"{name} must be an integer of at least 1; got {count!r}.")
    x = input.transpose(0, 1) if layer.batch_first else input
    check_shape("input", x, "T B I", {})
    x = x[:STEPS, :ROWS].detach().contiguous()
    for cell in _cells(layer):
        _floss(cell, x, min(exponents, cell.state_size), updates, rate)
        with torch.no_grad():
            start = x.new_zeros(x.shape[1], cell.state_size)
            x = forward(cell, x, start).s[1:, :, : cell.hidden_size].contiguous()
    return layer


def layer_cell(layer: nn.Module) -> AbstractCell:
    """Return the cell of a layer's lowest level over its own weights."""
    return _cells(layer)[0]


def _cells(layer: nn.Module) -> Sequence[AbstractCell]:
    if isinstance(layer, Recurrent):
        return [layer.cell]
    assert isinstance(layer, nn.RNNBase)
    return [cell_of(layer, suffix.removeprefix("_")) for suffix in weight_suffixes(layer)]


def _floss(cell: AbstractCell, x: Tensor, n: int, updates: int, rate: float) -> None:
    weights = [w for w in cell.weights().values() if w.requires_grad]
    optimizer = torch.optim.Adam(weights, rate)
    with torch.enable_grad():
        for _ in range(updates):
            loss = leading_exponents(cell, x, n).pow(2).mean()
            grads = torch.autograd.grad(loss, weights, allow_unused=True)
            if not all(g is None or bool(g.isfinite().all()) for g in grads):
                break
            before = [w.grad for w in weights]
            for weight, grad in zip(weights, grads, strict=True):
                weight.grad = grad
            optimizer.step()
            for weight, grad in zip(weights, before, strict=True):
                weight.grad = grad


def _fits(case: Case, place: Place) -> bool:
    layer = place.module
    return (
        is_plain(layer)
        and isinstance(layer, (nn.RNNBase, Recurrent))
        and plain_weights(layer)
        and not getattr(layer, "bidirectional", False)
        and len(case.layers(place)) == len(weight_suffixes(layer))
        and case.layers(place)[0].cell is not None
    )


def _change(case: Case, place: Place) -> Change:
    layer, x = place.module, case.layers(place)[0].tape.x
    read = x.transpose(0, 1) if getattr(layer, "batch_first", False) else x
    floss_(layer, read)
    note = "  # x: what this layer reads, as it is called"
    return Change(f"floss_({place.expression}, x){note}", names=("floss_",))


FLOSSING = Remedy(
    name="flossing",
    against=("vanishes", "explodes"),
    what="The leading Lyapunov exponents pulled to 0 before training.",
    formula="minimise Σ_{i≤n} λ_i² / n over the weights",
    source="Engelken (2023), Gradient flossing: improving gradient descent through dynamic control "
    "of Jacobians",
    gains="Reach of plain cells (.2 at T = 100). Temporal order at T = 100: 0 of 2 seeds learnt "
    "after 500 updates of it.",
    fits=_fits,
    change=_change,
)
