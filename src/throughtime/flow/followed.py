"""Which modules a trace follows, and how each kind is run meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.nn.utils import parametrize

from ..cells import GRU, LSTM, Elman, Function
from ..cells.base import AbstractCell
from ..layers import modules as own
from ..layers.leaf import is_drawn
from ..layers.recurrent import Recurrent, run_cell
from ..layers.recurrent_kinds import left_alone
from ..layers.stack import run_bptt
from ..node.alias import alias_of, aliased
from ..node.recording import Key, Recording, Step
from ..torch_state import is_transformed
from .beside import run_beside
from .checkpoints import refuse_reentrant
from .forward_wrapper import Entry, Watch, Watcher
from .held import OwnAliases, held, is_state, put_in, refilled, spread

__all__ = ["entry_of", "follow_step", "left_out"]

OF_TORCH = (nn.RNN, nn.LSTM, nn.GRU)
FROZEN = "ran on weights, an input and a state none of which requires grad, so nothing reaches it"
LAYERS = (*OF_TORCH, own.RNN, own.LSTM, own.GRU)


def left_out(model: nn.Module, steps: set[nn.Module]) -> dict[str, str]:
    """Return by path the modules that look recurrent and are not followed, and why.

    Args:
        model: what is traced.
        steps: the modules that are followed as steps.
    """
    inside = {part for step in steps for part in step.modules()}
    return {
        path: f"{why}; follow it with tt.trace(model, steps=[{path!r}])"
        for path, module, why in left_alone(model)
        if module not in inside and entry_of(module) is None
    }


def entry_of(module: nn.Module) -> Entry | None:
    """Return how a trace runs a module; None where it is not followed."""
    forward = type(module).forward
    if isinstance(module, Recurrent) and forward is Recurrent.forward:
        return _follow_recurrent
    if isinstance(module, LAYERS):
        if forward in {kind.forward for kind in LAYERS}:
            return _follow_layer
        return _follow_subclass
    if isinstance(module, tuple(CELLS)):
        plain = any(forward is kind.forward for kind in CELLS)
        return _follow_cell if plain else follow_step
    return None


def _follow_recurrent(
    watch: Watch, watcher: Watcher, args: tuple[Any, ...], named: dict[str, Any]
) -> Any:
    plain = partial(watch.plain, *args, **named)
    return _run_layer(run_cell, watch.module, watcher, args, named, plain)


def _follow_layer(
    watch: Watch, watcher: Watcher, args: tuple[Any, ...], named: dict[str, Any]
) -> Any:
    return _run_layer(
        run_bptt, watch.module, watcher, args, named, partial(watch.plain, *args, **named)
    )


def _run_layer(
    by: Callable[..., Any],
    module: Any,
    watcher: Watcher,
    args: tuple[Any, ...],
    named: dict[str, Any],
    plain: Callable[[], Any],
) -> Any:
    """Run a layer by the sweeps; or, where that is wished, as it is, with the sweeps beside it."""
    recording = watcher.recording
    if is_drawn((*args, *named.values())):  # nothing runs, and a layer is a leaf of the graph
        return plain()

    ours = partial(by, module, *args, **named, recording=recording, path=watcher.path)
    if recording.unchanged and _rounds_otherwise(module):
        return run_beside(recording, watcher.path, module, plain, ours)
    refuse_reentrant(watcher.path)
    return ours()


def _rounds_otherwise(module: Any) -> bool:
    """Check whether a layer's own run may round otherwise than the one that a trace records."""
    if isinstance(module, OF_TORCH):
        return True
    of_steps = isinstance(module, Recurrent) and isinstance(module.cell, Function)
    return of_steps or module.through.whole() is not module.through


def _follow_subclass(
    watch: Watch, watcher: Watcher, args: tuple[Any, ...], named: dict[str, Any]
) -> Any:
    """Run somebody's own forward, with the sweeps in place of the one that it calls by super().

    A class is put between the module's and torch's for the length of the call.
    """
    module: Any = watch.module
    kind = type(module)
    base: Any = next(base for base in LAYERS if isinstance(module, base))

    def forward(self: nn.RNNBase, *args: Any, **named: Any) -> Any:
        if self is not module:
            return base.forward(self, *args, **named)  # pyright: ignore[reportArgumentType]
        plain = partial(base.forward, self, *args, **named)  # pyright: ignore[reportArgumentType]
        return _run_layer(run_bptt, self, watcher, args, named, plain)

    between = type(base.__name__, (base,), {"forward": forward})
    recorded = len(watcher.recording.calls)
    module.__class__ = type(kind.__name__, (kind, between), {"__module__": kind.__module__})
    try:
        return watch.plain(*args, **named)
    finally:
        module.__class__ = kind
        if len(watcher.recording.calls) == recorded and torch.is_grad_enabled():
            watcher.recording.skipped[watcher.path] = (
                f"is a subclass of nn.{base.__name__} whose forward does not call "
                "super().forward, so its steps were not seen"
            )


def _elman(module: Any, weights: dict[str, Tensor]) -> AbstractCell:
    return Elman.over(weights, nonlinearity=module.nonlinearity)


# The cells of torch.nn, and what each is over copies of its weights.
CELLS: dict[type[nn.RNNCellBase], Callable[[Any, dict[str, Tensor]], AbstractCell]] = {
    nn.LSTMCell: lambda module, weights: LSTM.over(weights),
    nn.GRUCell: lambda module, weights: GRU.over(weights),
    nn.RNNCell: _elman,
}


def _follow_cell(
    watch: Watch, watcher: Watcher, args: tuple[Any, ...], named: dict[str, Any]
) -> Any:
    """Run a cell of ``torch.nn`` as it is, and take down its step."""
    refuse_reentrant(watcher.path)
    # A parametrized weight is computed once, for both: spectral_norm changes each time it is asked.
    with parametrize.cached() if parametrize.is_parametrized(watch.module) else nullcontext():
        out = watch.plain(*args, **named)
        parts = out if isinstance(out, tuple) else (out,)
        if not _records(parts):
            if torch.is_grad_enabled():
                watcher.recording.skipped.setdefault(watcher.path, FROZEN)
            return out
        if watcher.recording.skipped.get(watcher.path) == FROZEN:
            del watcher.recording.skipped[watcher.path]
        cell = _cell_over(watcher.recording, watch.module)
    given = dict(zip(("input", "hx"), args, strict=False)) | named
    x, hx = given["input"], given.get("hx")
    state = () if hx is None else hx if isinstance(hx, tuple | list) else (hx,)
    step = aliased(watcher.recording, Key("step", watcher.path), parts, tuple(state))
    step.cell = cell
    step.x, step.module, step.rows = x, watch.module, 0 if parts[0].dim() > 1 else None
    if state and all(part.requires_grad and alias_of(part) is None for part in state):
        # A decoder may read its first state on the way to its first input, too.
        step.entered = tuple(get_gradient_edge(part) for part in state)
    return step.out if isinstance(out, tuple) else step.out[0]


def _cell_over(recording: Recording, module: nn.Module) -> AbstractCell:
    """Return the recurrence over copies of the cell's weights, one for all its steps."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    weights = {n: w for n in names if (w := getattr(module, n)) is not None}

    def make() -> AbstractCell:
        kind = next(kind for base, kind in CELLS.items() if isinstance(module, base))
        return kind(module, {name: recording.copy(w) for name, w in weights.items()})

    return recording.cell_over(module, list(weights.values()), make)


def follow_step(
    watch: Watch, watcher: Watcher, args: tuple[Any, ...], named: dict[str, Any]
) -> Any:
    """Run a module that is one step, with aliases of its parameters, and take down the step."""
    refuse_reentrant(watcher.path)
    recording, key = watcher.recording, Key("step", watcher.path)
    if not torch.is_grad_enabled() or is_transformed(()):
        return watch.plain(*args, **named)
    given = tuple(leaf for leaf in spread((args, named)) if is_state(leaf))
    known = set(map(id, given))
    before = held(watch.module)
    came = (*given, *(kept.tensor for kept in before.values()))
    begin = None
    if given and not any(alias_of(tensor) == key for tensor in came):
        # A sequence may begin: what arrives at its first state has to be told from the rest.
        begin = aliased(recording, Key("begin", watcher.path), given)
        given = begin.out
        aliases = iter(given)
        known |= set(map(id, given))
        args, named = refilled(
            (args, named), lambda leaf: next(aliases) if is_state(leaf) else leaf
        )
    weights: dict[str, Tensor] = {}
    try:
        with OwnAliases(watch.module, weights):
            out = watch.plain(*args, **named)
    finally:
        if begin is not None:
            _give_back((args, named), begin)
    leaves = spread(out)
    kept = {
        name: now.tensor
        for name, now in held(watch.module).items()
        if name not in before or not now.same(before[name])
    }
    # A module may put its state into a dictionary or a list of its caller's.
    put = [leaf for leaf in spread((args, named)) if is_state(leaf) and id(leaf) not in known]
    every = (*leaves, *put, *kept.values())
    results = [leaf for leaf in every if is_state(leaf) and leaf.requires_grad]
    tensors = {id(leaf): leaf for leaf in results}
    if not tensors:
        return out
    step = aliased(recording, key, tuple(tensors.values()), given)
    step.module, step.begin, step.weights = watch.module, begin, weights
    step.found = {name: was.tensor for name, was in before.items()}
    numbers = {at: n for n, at in enumerate(tensors)}
    step.kept = {name: numbers[id(t)] for name, t in kept.items() if id(t) in numbers}
    instead = dict(zip(tensors, step.out, strict=True))
    if kept:
        put_in(watch.module, instead)
    if put:
        refilled((args, named), lambda leaf: instead.get(id(leaf), leaf))
    return refilled(out, lambda leaf: instead.get(id(leaf), leaf))


def _give_back(arguments: Any, begin: Step) -> None:
    """Let a step's arguments hold the caller's tensors again, with what was written into them."""
    own = {id(alias): was for alias, was in zip(begin.out, begin.raw, strict=True)}
    refilled(arguments, lambda leaf: own.get(id(leaf), leaf))
    for was, alias in zip(begin.raw, begin.out, strict=True):
        if alias._version:
            was.copy_(alias)


def _records(parts: tuple[Any, ...]) -> bool:
    return torch.is_grad_enabled() and parts[0].requires_grad and not is_transformed(parts)
