"""Which modules look recurrent without being layers that this package takes as they are."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

from torch import nn
from torch.nn.utils import parametrize

from .modules import GRU, LSTM, RNN
from .recurrent import Recurrent

__all__ = ["left_alone", "looks_recurrent", "own_class", "within_layers"]

OWN = (RNN, LSTM, GRU, Recurrent)
TAKEN = (nn.RNN, nn.LSTM, nn.GRU, *OWN)
# Names that nothing but the state of a recurrence has, as an argument after the input.
STATE_NAMES = re.compile(
    "hx|cx|hxs|h_?0|h_t|h_tm1|h_prev|s_prev|prev_h|prev_hidden|prev_state|previous_state"
    "|init_state|initial_state|rnn_states?|rnn_hxs|carry"
)
# Names that a state often has, and a memory, a feature or a policy's observation too: they count
# in a class, or below one, whose name has one of the words.
MAYBE_NAMES = re.compile("h|H|s|hiddens?|hidden_state|states?|mem|membrane|syn")
WORDS = re.compile("Cell|RNN|LSTM|GRU|Recurrent|Neuron")
# Attention reads another module's state.
READERS = re.compile("Attention|Attn")


def looks_recurrent(module: nn.Module) -> str | None:
    """Return why a module looks recurrent, in words; None where it does not.

    None too for what this package takes as it is: `nn.RNN`, `nn.LSTM`, `nn.GRU` and its own layers,
    parametrized or not. A module looks recurrent if it is

    1. an `nn.RNNCell`, `nn.LSTMCell` or `nn.GRUCell`, or derived from their base;
    2. derived from `nn.RNNBase` (a subclass of `nn.LSTM`);
    3. of a class that torch did not write, whose ``forward`` takes after its input an argument
       with a state's name: one of `STATE_NAMES`; or one of `MAYBE_NAMES`, where the name of the
       class or of one it derives from has a word of `WORDS` in it. Not meant by this rule are a
       module that holds a recurrent one, since the recurrence is that one's, and a class whose name
       says that it is attention, without one of those words.

    The rule reads signatures and runs nothing. A module that keeps its state to itself, as a buffer
    or an attribute, is not seen; and none whose ``forward`` takes ``*args`` alone.

    Args:
        module: any module.

    Returns:
        What it is, such as "is an nn.LSTMCell, which takes one step a call"; or None.

    Example:
        >>> looks_recurrent(torch.nn.GRUCell(3, 5))
        'is an nn.GRUCell, which takes one step a call'
        >>> looks_recurrent(torch.nn.TransformerEncoderLayer(4, 2)) is None
        True
    """
    kind = own_class(module)
    if kind in TAKEN:
        return None
    if isinstance(module, nn.RNNCellBase):
        return f"is {_named(kind)}, which takes one step a call"
    if isinstance(module, (nn.RNNBase, Recurrent)):
        forward = "" if _torchs_forward(kind) else " with a forward of its own"
        return f"is {_named(kind)}{forward}"
    name = _state_name(kind)
    if name is None or any(_is_recurrent(part) for part in module.modules() if part is not module):
        return None
    return f"has a forward that takes a state ({name})"


def left_alone(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Go through the modules of a model that look recurrent; not into a `Recurrent`'s step.

    Args:
        model: any module.

    Yields:
        The module's path, the module, and what `looks_recurrent` says of it.
    """
    inside = within_layers(model)
    for path, module in model.named_modules():
        reason = None if module in inside else looks_recurrent(module)
        if reason is not None:
            yield path, module, reason


def within_layers(model: nn.Module) -> set[nn.Module]:
    """Return the modules inside the `Recurrent`s of a model: cells, and what their steps hold."""
    layers = [layer for layer in model.modules() if isinstance(layer, Recurrent)]
    return {part for layer in layers for part in layer.modules() if part is not layer}


def own_class(module: nn.Module) -> type[nn.Module]:
    """Return a module's class; a parametrization puts one of its own before it."""
    kind = type(module)
    return kind.__bases__[0] if parametrize.is_parametrized(module) else kind


def _is_recurrent(module: nn.Module) -> bool:
    return own_class(module) in TAKEN or looks_recurrent(module) is not None


def _torchs_forward(kind: type[nn.Module]) -> bool:
    return kind.forward in {taken.forward for taken in TAKEN}


def _of_torch(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == "torch"


def _named(kind: type[nn.Module]) -> str:
    """Return "an nn.LSTMCell", or what of torch.nn or of this package a class derives from."""
    if _of_torch(kind):
        return f"an nn.{kind.__name__}"
    # By what torch.nn holds: a class may have copied torch's __module__ (torchrl's LSTMBase).
    known = next(k for k in kind.__mro__ if vars(nn).get(k.__name__) is k or k in OWN)
    return f"a subclass of {'tt' if known in OWN else 'nn'}.{known.__name__}"


def _state_name(kind: type[nn.Module]) -> str | None:
    """Return the argument of a class's forward that has a state's name, if there is one."""
    if _of_torch(kind) or "forward" not in {n for k in kind.__mro__[:-1] for n in vars(k)}:
        return None
    try:
        named = list(inspect.signature(kind.forward).parameters)[2:]  # after self and the input
    except (TypeError, ValueError):
        return None  # written in C, or scripted
    maybe = any(WORDS.search(k.__name__) for k in kind.__mro__)
    if READERS.search(kind.__name__) and not maybe:
        return None
    known = (STATE_NAMES, MAYBE_NAMES) if maybe else (STATE_NAMES,)
    return next((name for name in named if any(k.fullmatch(name) for k in known)), None)
