"""A module's layers and directions, one after the other: what the name of each stands for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..cells import GRU, LSTM, Elman
from ..cells.base import AbstractCell, GatedWeights, rebind
from ..node.compiled import compiled_bptt
from ..node.eager import bptt
from ..node.operator import onnx_layer
from ..node.recording import Recording
from ..schedules import FULL, Schedule
from ..tape import by_run, split
from ..torch_state import is_jit_traced, is_to_onnx, is_transforming

__all__ = [
    "Masks",
    "Results",
    "all_weights",
    "cell_of",
    "each_run",
    "one_by_one",
    "state_widths",
    "suffixes",
]

Results = tuple[Tensor, tuple[Tensor, ...]]
Masks = tuple[Tensor | None, Tensor | None]  # active and reset, as the sweeps take them

# What nn.RNNBase calls its modes, and the nonlinearity each has.
ELMAN_MODES = {
    "RNN_TANH": "tanh",
    "RNN_RELU": "relu",
    "RNN_SIGMOID": "sigmoid",
    "RNN_IDENTITY": "identity",
}


# The cells over a module's own parameters, by layer; building one costs as much as a short sweep.
_CELLS: WeakKeyDictionary[nn.Module, dict[tuple[str, str, int], GatedWeights]] = WeakKeyDictionary()


def cell_of(module: nn.RNNBase, suffix: str) -> AbstractCell:
    """Return the cell of one layer and direction, over the module's own weights.

    Args:
        module: a recurrent module of ``torch.nn`` or of this package.
        suffix: PyTorch's: ``"l0"``, ``"l0_reverse"``, ``"l1"``, …
    """
    weights = _weights(module, suffix)
    # A tracer's sizes are its own, and a compiler would watch all that is kept.
    if torch.compiler.is_compiling() or is_jit_traced():
        return _over(module, weights)
    kept, name = _CELLS.get(module), (module.mode, suffix, len(weights))
    cell = None if kept is None else kept.get(name)
    if cell is not None and cell.is_over(weights):
        return cell
    cell = _over(module, weights)
    # Other tensors may come with a graph, and stand in for one call only.
    if all(type(weight) is nn.Parameter for weight in weights.values()):
        _CELLS.setdefault(module, {})[name] = cell
    return cell


def _over(module: nn.RNNBase, weights: dict[str, Tensor]) -> GatedWeights:
    if module.mode == "LSTM":
        return LSTM.over(weights)
    if module.mode == "GRU":
        return GRU.over(weights)
    return Elman.over(weights, nonlinearity=ELMAN_MODES[module.mode])


def _weights(module: nn.RNNBase, suffix: str) -> dict[str, Tensor]:
    names = ["weight_ih", "weight_hh"]
    if module.bias:
        names += ["bias_ih", "bias_hh"]
    if getattr(module, "proj_size", 0):
        names.append("weight_hr")
    plain = module._parameters  # a parametrized weight is not there
    found = {name: plain.get(f"{name}_{suffix}") for name in names}
    return {n: getattr(module, f"{n}_{suffix}") if w is None else w for n, w in found.items()}


def all_weights(module: nn.RNNBase) -> dict[str, Tensor]:
    """Return all weights by their names in the module."""
    return {f"{n}_{end}": w for end in suffixes(module) for n, w in _weights(module, end).items()}


def suffixes(module: nn.RNNBase) -> list[str]:
    """Return what PyTorch calls the layers and directions, in the order of the weights."""
    directions = ("", "_reverse") if module.bidirectional else ("",)
    return [f"l{layer}{end}" for layer in range(module.num_layers) for end in directions]


def one_by_one(
    module: nn.RNNBase,
    masks: Masks,
    x: Tensor,
    parts: tuple[Tensor, ...] | None,
    weights: dict[str, Tensor] | None,
    between: Callable[[Tensor], Tensor] | None = None,
    recording: Recording | None = None,
    path: str = "",
) -> Results:
    """Run the layers one after the other: the output, and the parts of all final states.

    Args:
        module: a recurrent module of ``torch.nn`` or of this package.
        masks: ``active`` and ``reset`` as the sweeps take them.
        x: inputs (T, B, I).
        parts: of the initial states, each (L·D, B, ·); None: zeros.
        weights: what stands in for the module's own, by the same names; or None.
        between: what a layer's output goes through before the next one.
        recording: where a trace collects the runs.
        path: the module's path in its model.
    """
    runs = suffixes(module)
    states = [None] * len(runs) if parts is None else by_run(parts)
    # Once for all layers, since what the engines find out of a mask they keep with it.
    each = (masks, _backwards(*masks)) if module.bidirectional else (masks,)

    def one(run: int, x: Tensor) -> Results:
        suffix, direction = runs[run], run % len(each)
        return _one_direction(
            module,
            suffix,
            x,
            states[run],
            *each[direction],
            weights,
            reverse=direction > 0,
            recording=recording,
            name=f"{path}.{suffix}" if path else suffix,
            inner=run >= len(each),
        )

    return each_run(one, x, module.num_layers, len(each), between)


def each_run(
    one: Callable[[int, Tensor], Results],
    x: Tensor,
    layers: int,
    directions: int,
    between: Callable[[Tensor], Tensor] | None = None,
) -> Results:
    """Run layers and directions one after the other: the output, and all final states.

    Args:
        one: runs one layer in one direction, by its number, over the input of its layer.
        x: inputs (T, B, I).
        layers: how many there are.
        directions: of each layer, 1 or 2.
        between: what a layer's output goes through before the next one.
    """
    finals = []
    for layer in range(layers):
        outputs = []
        for _ in range(directions):
            h, final = one(len(finals), x)
            outputs.append(h)
            finals.append(final)
        x = outputs[0] if len(outputs) == 1 else torch.cat(outputs, -1)
        if between is not None and layer < layers - 1:
            x = between(x)
    return x, finals[0] if len(finals) == 1 else tuple(map(torch.cat, zip(*finals, strict=True)))


def _one_direction(
    module: nn.RNNBase,
    suffix: str,
    x: Tensor,
    s_0: Tensor | None,
    active: Tensor | None,
    reset: Tensor | None,
    given: dict[str, Tensor] | None,
    *,
    reverse: bool,
    **where,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run one direction; the reverse one meets the steps from their end, as its masks do."""
    schedule = _schedule(module)
    kind = ELMAN_MODES.get(module.mode, module.mode)
    if torch.compiler.is_compiling() and is_to_onnx():
        return onnx_layer(kind, _weights(module, suffix), x, s_0, active, reset, reverse=reverse)
    if torch.compiler.is_compiling() and not is_transforming():
        # A compiler traces tensors and names; a cell is a module, which it cannot make.
        weights, widths = _weights(module, suffix), state_widths(module)

        def through(x, s_0, *masks):
            s_0 = x.new_zeros(x.shape[1], sum(widths)) if s_0 is None else s_0
            h, s_T = compiled_bptt(kind, weights, schedule, x, s_0, *masks)
            return h, split(s_T, widths)

    else:
        cell = cell_of(module, suffix)
        if given is not None:
            cell = rebind(cell, {name: given[f"{name}_{suffix}"] for name in cell.weights()})
        through = partial(bptt, cell, through=schedule, reverse=reverse, **where)
    if not reverse:
        return through(x, s_0, active, reset)
    h, parts = through(x.flip(0), s_0, active, reset)
    return h.flip(0), parts


def _schedule(module: nn.RNNBase) -> Schedule:
    """Return the schedule of the backward pass: the module's own, or that of its class."""
    # Not of the module at once: a strict export of torch 2.8 reads no object of a class that way.
    own = module.__dict__.get("through")
    return getattr(type(module), "through", FULL) if own is None else own


def _backwards(active: Tensor | None, reset: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Return the masks as the reverse direction meets them; for ONNX as they came."""
    if torch.compiler.is_compiling() and is_to_onnx():
        return active, reset
    if active is not None:
        active = active.flip(0)
    if reset is not None:
        # The boundary before step t lies, for the reverse direction, before its step t−1. The row
        # is joined before the first is cut: a compiler takes a size of T−1 to be another than 1.
        reset = torch.cat((reset, reset.new_zeros(1, reset.shape[1])))[1:].flip(0)
    return active, reset


def state_widths(module: nn.RNNBase) -> tuple[int, ...]:
    """Return the widths of the parts of the state: (H,), or (P or H, H) for the LSTM."""
    if module.mode == "LSTM":
        return (module.proj_size or module.hidden_size, module.hidden_size)
    return (module.hidden_size,)
