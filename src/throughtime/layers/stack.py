"""Several layers and directions over one input, as ``torch.nn``'s recurrent modules have them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from .. import kernels, torch_state
from ..cells import GRU, LSTM, Elman
from ..cells.base import AbstractCell, GatedWeights, rebind
from ..errors import InputTypeError
from ..kernels.by_row import CALLS, COLLECTORS
from ..node.compiled import compiled_bptt
from ..node.eager import bptt
from ..node.operator import onnx_layer
from ..node.recording import Recording
from ..schedules import FULL
from ..shapes import check
from ..tape import by_run, split
from ..torch_state import (
    is_autocast,
    is_jit_traced,
    is_to_onnx,
    is_transforming,
)
from .inputs import Batch, dropout, lengths_of, read, write
from .stacked import all_at_once
from .watched import Results

__all__ = ["cell_of", "each_run", "one_by_one", "run", "state_widths", "suffixes"]

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


def run(
    module: nn.RNNBase,
    input: Tensor | PackedSequence,
    hx: Tensor | tuple[Tensor, Tensor] | None = None,
    *,
    lengths: Tensor | Sequence[int] | None = None,
    reset: Tensor | None = None,
    mask: Tensor | None = None,
    recording: Recording | None = None,
    path: str = "",
):
    """Run a recurrent module of ``torch.nn`` or of this package by exact BPTT.

    Args:
        module: an `nn.RNN`, `nn.LSTM`, `nn.GRU` or one of this package's.
        input: (T, B, I), (B, T, I) with ``batch_first``, (T, I), or a PackedSequence.
        hx: the initial state, as ``torch.nn`` takes it; zeros where None.
        lengths: (B,) how many steps each row takes.
        reset: (T, B) bool, True where a row's state is zeroed before the step.
        mask: the lengths as a mask, (T, B), or (B, T) with ``batch_first``.
        recording: where a trace collects the runs.
        path: the module's path in its model.

    Returns:
        What ``torch.nn`` returns: the output, and h_n or (h_n, c_n).

    Raises:
        ShapeError: an input or state of the wrong shape, or T = 0.
        DtypeError: an input or state of another dtype than the weights.
        DeviceError: an input or state on another device than the weights.
        InputTypeError: an input or state of the wrong type.
        InputValueError: lengths outside 1…T, or a mask that is not True on each row's first steps.
    """
    weight: Tensor = module.weight_ih_l0  # pyright: ignore[reportAssignmentType]
    if mask is not None:
        lengths = lengths_of(mask, input, lengths, batch_first=module.batch_first)
    batch = read(
        input,
        weight,
        module.input_size,
        batch_first=module.batch_first,
        lengths=lengths,
        reset=reset,
    )
    widths = state_widths(module)
    runs = module.num_layers * (2 if module.bidirectional else 1)
    parts, x = _initial_parts(module, batch, hx, runs, widths, weight), batch.x
    half = _autocasts(module, weight, recording)
    weights = None
    if half is not None:
        x, weights = x.to(half), {n: w.to(half) for n, w in _all_weights(module).items()}
        parts = None if parts is None else tuple(part.to(half) for part in parts)
    masks = (batch.active, batch.reset)
    if recording is None and not torch.compiler.is_compiling():
        again = partial(one_by_one, module, masks)
        found = all_at_once(module, cell_of(module, "l0"), batch, x, parts, weights, again)
        if found is not None:
            return write(batch, found[0], module.batch_first), _as_given(batch, found[1])
    drops = module.dropout and module.training
    between = partial(dropout, p=module.dropout, batch=batch) if drops else None
    x, finals = one_by_one(module, masks, x, parts, weights, between, recording, path)
    return write(batch, x, module.batch_first), _as_given(batch, finals)


def _autocasts(
    module: nn.RNNBase, weight: Tensor, recording: Recording | None
) -> torch.dtype | None:
    """Return the precision that autocast asks for where torch's own module would take it.

    That is on a GPU. Elsewhere, in a trace, and where the rows' shares are asked for by weight, a
    layer keeps the precision of its weights.
    """
    if not torch_state.is_on_gpu(weight) or not is_autocast(weight) or recording is not None:
        return None
    if weight.dtype != torch.float32 or CALLS or COLLECTORS or torch.compiler.is_compiling():
        return None
    chosen = kernels.choice(cell_of(module, "l0")).name
    return torch.get_autocast_dtype(weight.device.type) if chosen == "torch" else None


def _all_weights(module: nn.RNNBase) -> dict[str, Tensor]:
    """Return all weights by their names in the module."""
    return {f"{n}_{end}": w for end in suffixes(module) for n, w in _weights(module, end).items()}


def suffixes(module: nn.RNNBase) -> list[str]:
    """Return what PyTorch calls the layers and directions, in the order of the weights."""
    directions = ("", "_reverse") if module.bidirectional else ("",)
    return [f"l{layer}{end}" for layer in range(module.num_layers) for end in directions]


def one_by_one(
    module: nn.RNNBase,
    masks: tuple[Tensor | None, Tensor | None],
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
    schedule = getattr(module, "through", FULL)
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


def _backwards(active: Tensor | None, reset: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Return the masks as the reverse direction meets them; for ONNX as they came."""
    if torch.compiler.is_compiling() and is_to_onnx():
        return active, reset
    if active is not None:
        active = active.flip(0)
    if reset is not None:
        # The boundary before step t lies, for the reverse direction, before its step t−1.
        reset = torch.cat((reset.new_zeros(1, reset.shape[1]), reset[1:].flip(0)))
    return active, reset


def state_widths(module: nn.RNNBase) -> tuple[int, ...]:
    """Return the widths of the parts of the state: (H,), or (P or H, H) for the LSTM."""
    if module.mode == "LSTM":
        return (module.proj_size or module.hidden_size, module.hidden_size)
    return (module.hidden_size,)


def _initial_parts(
    module: nn.RNNBase, batch: Batch, hx, runs: int, widths: tuple[int, ...], weight: Tensor
) -> tuple[Tensor, ...] | None:
    """Return the parts of the initial states, each (L·D, B, ·); None stands for zeros."""
    if hx is None:
        return None
    B = batch.x.shape[1]
    parts = (hx,) if len(widths) == 1 else hx
    if len(widths) == 2 and not (isinstance(hx, (tuple, list)) and len(hx) == 2):
        raise InputTypeError(
            f"hx must be the pair (h_0, c_0) for an LSTM; got {type(hx).__name__}."
        )
    names = ("hx",) if len(widths) == 1 else ("h_0", "c_0")
    laid_out = []
    for name, part, width in zip(names, parts, widths, strict=True):
        axes = "L B H" if batch.batched else "L H"
        part = part.to(weight.dtype) if is_autocast(weight) else part
        check(name, part, axes, {"L": runs, "B": B, "H": width}, like=weight)
        laid_out.append(part if batch.batched else part.unsqueeze(1))
    return tuple(laid_out)


def _as_given(batch: Batch, parts: tuple[Tensor, ...]):
    """Return h_n, or (h_n, c_n), with a batch axis if the input had one."""
    if not batch.batched:
        parts = tuple(part.squeeze(1) for part in parts)
    return parts[0] if len(parts) == 1 else parts
