"""The mutants: one changed line each, of a cell, a sweep or a measurement."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from throughtime import sweep
from throughtime.cells import GRU, LSTM, Elman
from throughtime.cells.base import GatedWeights
from throughtime.flow import jacobians, lags, nonfinite
from throughtime.flow.layer_flow import LayerFlow
from throughtime.kernels.plain import losses


class Mutant(NamedTuple):
    """An error of one line, and who must notice it.

    Attributes:
        what: what it does.
        owner: the class or module of the function that is changed.
        function: its name.
        old: the piece of its source that is replaced.
        new: what stands there instead.
        kind: the recurrence that shows it.
        judges: the oracles that must fail, separated by spaces.
    """

    what: str
    owner: type | ModuleType
    function: str
    old: str
    new: str
    kind: str
    judges: str


def edited(function: Callable, old: str, new: str) -> Callable:
    """Give a function with one piece of its source changed; the piece must be there once."""
    source = textwrap.dedent(inspect.getsource(function)).replace(
        "super()", "super(type(self), self)"
    )
    assert source.count(old) == 1, f"{function.__qualname__} no longer holds {old!r}"
    space: dict = {}
    exec(source.replace(old, new), function.__globals__, space)
    return space[function.__name__]


def changed(module: str, old: str, new: str, folder: Path) -> ModuleType:
    """Return a module with one piece of its source changed, beside the one that is imported."""
    path = Path(str(sys.modules[module].__file__))
    source = path.read_text(encoding="utf-8")
    assert source.count(old) == 1, f"{path.name} holds {old!r} {source.count(old)} times"
    copy = folder / path.name
    copy.write_text(source.replace(old, new), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(module, copy)
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


MUTANTS = [
    Mutant(
        "the input gate's term is dropped",
        LSTM,
        "_factors",
        "g * i * (1 - i),",
        "0 * i,",
        "lstm",
        "check_cell gradients flow",
    ),
    Mutant(
        "the forget gate's term is dropped",
        LSTM,
        "_factors",
        "s_prev[..., H:] * f * (1 - f),",
        "0 * f,",
        "lstm",
        "check_cell gradients flow",
    ),
    Mutant(
        "the output gate's term is dropped",
        LSTM,
        "_factors",
        "tanh_c * o * (1 - o),",
        "0 * o,",
        "lstm",
        "check_cell gradients flow",
    ),
    Mutant(
        "c's way past the gates is dropped",
        LSTM,
        "_back",
        "delta_c * f)",
        "delta_c * 0)",
        "lstm",
        "check_cell gradients flow exponents",
    ),
    Mutant(
        "h's part of c's gradient is dropped",
        LSTM,
        "_back",
        "torch.addcmul(delta_c, delta_m, through_m)",
        "delta_c",
        "lstm",
        "check_cell gradients flow",
    ),
    Mutant(
        "c before the step in place of c after it",
        LSTM,
        "_factors",
        "s[..., H:].tanh()",
        "s_prev[..., H:].tanh()",
        "lstm",
        "check_cell gradients flow",
    ),
    Mutant(
        "the reset gate's term is dropped",
        GRU,
        "_factors",
        "(q * r * (1 - r))",
        "(0 * r)",
        "gru",
        "check_cell gradients flow",
    ),
    Mutant(
        "the update gate's term has the other sign",
        GRU,
        "_factors",
        "(h_prev - n)",
        "(n - h_prev)",
        "gru",
        "check_cell gradients flow",
    ),
    Mutant(
        "h's way past the gates is dropped",
        GRU,
        "_back",
        "delta, z), adjoint",
        "delta, 0 * z), adjoint",
        "gru",
        "check_cell gradients flow",
    ),
    Mutant(
        "n's input-side adjoint on the hidden side",
        GRU,
        "_back",
        "(adjoint * hidden_side)",
        "adjoint",
        "gru",
        "check_cell gradients flow",
    ),
    Mutant(
        "n's input-side adjoint for W_hn",
        GRU,
        "param_grads",
        "*= tape.saved[0][..., :H]",
        "*= 1",
        "gru",
        "check_cell gradients flow",
    ),
    Mutant(
        "W_h is transposed on the way back",
        Elman,
        "vjp",
        "adjoint @ self.weight_hh,",
        "adjoint @ self.weight_hh.T,",
        "tanh",
        "check_cell gradients flow",
    ),
    Mutant(
        "the slope is left out",
        Elman,
        "vjp",
        "NONLINEARITIES[self.nonlinearity].through(delta, saved[0])",
        "delta",
        "sigmoid",
        "check_cell gradients flow",
    ),
    Mutant(
        "W_h's gradient reads s_t in place of s_{t-1}",
        GatedWeights,
        "_grads",
        "tape.s_prev()",
        "tape.s[1:]",
        "lstm",
        "check_cell gradients flow",
    ),
    Mutant(
        "W_h's gradient ignores resets",
        GatedWeights,
        "_grads",
        "tape.s_prev()",
        "tape.s[:-1]",
        "tanh",
        "check_cell gradients flow",
    ),
    Mutant(
        "W_x's gradient is transposed in time",
        GatedWeights,
        "_grads",
        "tape.x.flatten",
        "tape.x.flip(0).flatten",
        "gru",
        "check_cell gradients",
    ),
    Mutant(
        "a bias is counted twice",
        GatedWeights,
        "_grads",
        "adjoint_x.sum(0)",
        "2 * adjoint_x.sum(0)",
        "tanh",
        "check_cell gradients",
    ),
    Mutant(
        "the sweep reads the step before",
        sweep,
        "adjoints",
        "back(t - below,",
        "back(max(t - below - 1, 1),",
        "gru",
        "check_cell gradients flow",
    ),
    Mutant(
        "g enters a step late",
        sweep,
        "adjoints",
        "g[here, t - 1]",
        "g[here, max(t - 2, 0)]",
        "lstm",
        "check_cell gradients",
    ),
    Mutant(
        "the first step is left out",
        sweep,
        "adjoints",
        "last, below, -1)",
        "last, below + 1, -1)",
        "tanh",
        "check_cell gradients flow exponents",
    ),
    Mutant(
        "the gradient passes a reset",
        sweep,
        "mask",
        "tape.reset is not None",
        "False",
        "gru",
        "check_cell gradients flow",
    ),
    Mutant(
        "padding gives weight gradients",
        sweep,
        "mask",
        "torch.where(takes, adjoint, 0)",
        "adjoint",
        "lstm",
        "check_cell gradients",
    ),
    Mutant(
        "a step that a row does not take changes its gradient",
        sweep,
        "mask",
        "torch.where(takes, delta_prev, delta)",
        "delta_prev",
        "tanh",
        "check_cell gradients",
    ),
    Mutant(
        "a loss takes its own step too late",
        losses._BackwardSweep,
        "under_way",
        "bisect_left(self.entries, t)",
        "bisect_right(self.entries, t)",
        "gru",
        "flow",
    ),
    Mutant(
        "a loss enters a step late",
        losses._BackwardSweep,
        "_enter",
        "self.g[t - 1]",
        "self.g[max(t - 2, 0)]",
        "lstm",
        "flow",
    ),
    Mutant(
        "a term is that of the step after",
        LayerFlow,
        "weight_grad",
        "tape.steps(step, step)",
        "tape.steps(min(step + 1, tape.T), min(step + 1, tape.T))",
        "tanh",
        "flow",
    ),
    Mutant(
        "the profile counts pairs that a reset parts",
        lags,
        "beginning",
        "tape.reset is not None",
        "False",
        "gru",
        "flow",
    ),
    Mutant(
        "the exponents leave out a step",
        jacobians,
        "exponents",
        "range(T, since, -1)",
        "range(T, since + 1, -1)",
        "lstm",
        "exponents",
    ),
    Mutant(
        "the product stops a step early",
        jacobians,
        "jacobian_product",
        "tape.steps(since + 1, to)",
        "tape.steps(min(since + 2, to), to)",
        "lstm",
        "exponents",
    ),
    Mutant(
        "the last inf in place of the first",
        nonfinite,
        "look",
        'if direction == "backward" else bad_steps[0]',
        'if direction == "backward" else bad_steps[-1]',
        "tanh",
        "overflow",
    ),
]
