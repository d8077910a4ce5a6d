"""The gradient of each batch row by itself, for the weights of recurrent layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from ..cells.computed import with_computed_weights
from ..errors import (
    InputTypeError,
    InputValueError,
    LayerNotFoundError,
    ShapeError,
    UnsupportedError,
)
from ..kernels import by_row
from .directions import all_weights
from .modules import GRU, LSTM, RNN
from .recurrent import Recurrent

__all__ = ["layer_weights", "per_sample_grads"]


@contextmanager
def per_sample_grads(
    model: nn.Module, *, loss_reduction: str | None = None
) -> Iterator[dict[str, nn.Parameter]]:
    """Let `backward` also leave each row's share of the gradient in ``p.grad_sample`` (eq. 5).

    Within the block, every weight p of a `tt.RNN`, `LSTM`, `GRU` or `Recurrent` in ``model`` gets
    ``p.grad_sample``, (B, ·) with p's own shape behind, beside its usual ``.grad``. The loss is a
    sum over rows, and the shares add up to ``.grad``; or it is their mean, and with
    ``loss_reduction="mean"`` a share is the gradient of the row's own loss, B times what it adds
    to ``.grad``. A weight that is used twice, by a layer called again or by two layers, gets the
    sum; so do several backward passes. Entering the block forgets the shares from before; a block
    within another one, over the same weights, adds to the same shares, each once.

    What a `cells.Function` takes in ``context=`` gets its gradient and no shares. Parameters of
    other modules are not touched. For differentially private training of a whole model take
    Opacus, which `throughtime.integrations.opacus` teaches these layers; else
    ``torch.func.vmap`` of ``torch.func.grad``.

    Args:
        model: any model; its ``nn.LSTM`` and the like become layers of this package by
            `tt.convert`.
        loss_reduction: "sum" or "mean" over the rows, as the loss has it; None: "sum", unless
            Opacus is at work on the model, whose shares are scaled by what it was told.

    Yields:
        The parameters that are served, by their name in ``model``.

    Cost:
        the layer's own backward sweep, and a batched GEMM a weight where it had one GEMM; memory
        B times the weights. ``benchmarks/bench_per_sample.py`` compares it with ``vmap``.

    Raises:
        InputTypeError: ``model`` is no module.
        InputValueError: another reduction; or none, although Opacus is at work on the model.
        LayerNotFoundError: there is no recurrent layer of this package in it.
        ShapeError: a weight is used for batches of different sizes.
        UnsupportedError: a weight is computed from others, the rows of a step depend on each
            other, a gradient came by another way than the layer's own backward
            (``create_graph=True``, ``torch.compile``), or Opacus has the shares already.

    Source:
        the name ``grad_sample`` is that of Opacus (Yousefpour et al. 2021).

    Example:
        >>> gru = tt.GRU(3, 5)
        >>> with tt.per_sample_grads(gru):
        ...     gru(torch.randn(7, 4, 3))[0].pow(2).sum().backward()
        >>> gru.weight_hh_l0.grad_sample.shape
        torch.Size([4, 15, 5])
    """
    if not isinstance(model, nn.Module):
        raise InputTypeError(f"model must be an nn.Module; got {type(model).__name__}.")
    served = layer_weights(model)
    mean = _is_mean(served, loss_reduction)
    known = {id(p): name for name, p in served.items()}
    before = {name: _stamp(p) for name, p in served.items()}
    taken = {id(weight) for collector in by_row.COLLECTORS for weight in collector.weights}
    for parameter in served.values():
        if id(parameter) not in taken:
            vars(parameter).pop("grad_sample", None)

    def collect(weight: Tensor, shares: Tensor) -> None:
        shares = shares * len(shares) if mean else shares
        already: Tensor | None = getattr(weight, "grad_sample", None)
        if already is not None and len(already) != len(shares):
            raise ShapeError(
                f"{known[id(weight)]} is used for batches of {len(already)} and of {len(shares)} "
                "rows, whose shares cannot be added; use one size, or a block of "
                "per_sample_grads for each."
            )
        weight.grad_sample = shares if already is None else already + shares  # pyright: ignore

    collector = by_row.Collector(tuple(served.values()), collect)
    by_row.COLLECTORS.append(collector)
    try:
        yield served
    finally:
        by_row.COLLECTORS.remove(collector)
    missed = [
        name
        for name, p in served.items()
        if _stamp(p) != before[name] and not hasattr(p, "grad_sample")
    ]
    if missed:
        raise UnsupportedError(
            f"{', '.join(missed)} got a .grad, but not from the layer's own backward sweep, which "
            "alone knows the rows' shares. Run the model within the block, not compiled, and call "
            "backward() without create_graph=True."
        )


def _stamp(parameter: nn.Parameter) -> tuple[int, int] | None:
    """Return what changes with every gradient that is added to a parameter's."""
    grad = parameter.grad
    return None if grad is None else (id(grad), grad._version)


def _is_mean(served: dict[str, nn.Parameter], reduction: str | None) -> bool:
    """Check whether the loss is a mean over rows; raise where that must be said and was not."""
    if reduction not in (None, "sum", "mean"):
        raise InputValueError(f'loss_reduction must be "sum" or "mean"; got {reduction!r}.')
    taken = [name for name, p in served.items() if by_row.TAKEN in vars(p)]
    if taken:
        raise UnsupportedError(
            f"Opacus collects the shares of {taken[0]} already, in its grad_sample; leave "
            "per_sample_grads out."
        )
    # Opacus marks every parameter that it serves so.
    opacus = [name for name, p in served.items() if "_forward_counter" in vars(p)]
    if reduction is None and opacus:
        raise InputValueError(
            f"Opacus is at work on {opacus[0]}, and scales shares by how the loss is reduced; say "
            'loss_reduction="mean" or "sum" here as you did there. With '
            "throughtime.integrations.opacus.register() it serves these layers itself."
        )
    return reduction == "mean"


def layer_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weights of all recurrent layers of this package, by their name in the model.

    Args:
        model: any model.

    Raises:
        UnsupportedError: a weight is computed from others.
        LayerNotFoundError: there is no such layer.
    """
    names = {id(p): name for name, p in model.named_parameters()}
    served: dict[str, nn.Parameter] = {}
    layers = 0
    for path, module in model.named_modules():
        if isinstance(module, Recurrent):
            cell = with_computed_weights(module.cell)
            weights = {n: w for n, w in cell.weights().items() if n not in cell.given}
        elif isinstance(module, (RNN, LSTM, GRU)):
            weights = all_weights(module)
        else:
            continue
        layers += 1
        for name, weight in weights.items():
            if id(weight) not in names:
                raise UnsupportedError(
                    f"{path or type(module).__name__}.{name} is computed from other parameters (a "
                    "parametrization, weight norm), and a row's share is known of the weight "
                    "alone. Take torch.func.vmap of torch.func.grad for this model."
                )
            served[names[id(weight)]] = weight  # pyright: ignore[reportArgumentType]
    if not layers:
        raise LayerNotFoundError(
            f"{type(model).__name__} has no recurrent layer of throughtime; tt.convert(model) "
            "makes one of each nn.RNN, nn.LSTM and nn.GRU."
        )
    return served
