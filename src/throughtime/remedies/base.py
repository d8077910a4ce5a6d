"""What a remedy is: one signature for all, and what it is told of the model that it changes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn.utils import parametrize

from ..errors import UnsupportedError
from ..flow import Flow, LayerFlow, trace
from .places import Place, replace_module, whole

__all__ = ["Case", "Change", "Losses", "Remedy", "copied", "flow_of"]

Losses = Callable[[nn.Module], Tensor]
# Of a vector of losses follow the last one alone: no trace has as many.
LAST_ONLY = 2**40


@dataclass
class Case:
    """A model that remedies are tried on.

    Attributes:
        model: what is changed, in place.
        losses: runs a model and gives its losses.
        flow: what was measured of the model as it was.
        lag: how many steps back the task needs.
        seed: of whatever a remedy draws.
        done: what the same remedy did where it was measured, while copies are trained.
    """

    model: nn.Module
    losses: Losses
    flow: Flow
    lag: int
    seed: int = 0
    done: tuple[Change, ...] = ()

    def generator(self, place: Place) -> Generator:
        """Return where a remedy draws from; another one for each place."""
        number = sum(map(ord, place.path)) % 1000
        return Generator().manual_seed(1000 * self.seed + number)

    def layers(self, place: Place) -> list[LayerFlow]:
        """Return what was measured of the layers of one place."""
        return [self.flow[name] for name in place.layers]


class Change(NamedTuple):
    """What was done at one place.

    Attributes:
        code: the line to paste; ``model`` is the model there.
        module: what takes the place of the module; None where that was changed in place.
        names: what the line needs of `throughtime.remedies`.
        value: a number that was measured for it, where there is one.
    """

    code: str
    module: nn.Module | None = None
    names: tuple[str, ...] = ()
    value: float | None = None


@dataclass(frozen=True)
class Remedy:
    """A remedy: what it changes, against what, and what is known of it.

    Attributes:
        name: in the table `REMEDIES`.
        against: the codes of the findings that it is against, as `Finding.code` has them.
        what: in a sentence.
        formula: what is set, in the letters of docs/math.md.
        source: where it comes from.
        gains: what it is known to gain, and where it does not.
        fits: whether it can be used at a place, and is worth trying there.
        change: does it at one place, in place or by a module that takes its place.
        whole: whether the place is the whole model and not each layer of it.
        during: what has to be on while a model is trained, for remedies that change the training.
        call: what is written, of a module's expression and a lag; None where it takes more to know.
        replaces: whether that is what takes the module's place.

    Example:
        >>> from throughtime.remedies import REMEDIES
        >>> REMEDIES["chrono"].against[0], REMEDIES["chrono"].formula
        ('vanishes', 'b_f = ln u, b_i = −b_f, u ~ U(1, T_max − 1); GRU: b_z = ln u')
    """

    name: str
    against: tuple[str, ...]
    what: str
    formula: str
    source: str
    gains: str
    fits: Callable[[Case, Place], bool]
    change: Callable[[Case, Place], Change]
    whole: bool = False
    during: Callable[[Case], AbstractContextManager[None]] | None = field(default=None)
    call: Callable[[str, int], str] | None = field(default=None)
    replaces: bool = False

    def line(self, at: str, lag: int, room: str = "") -> str:
        """Return the line to paste for one module; empty where it takes more to know.

        Args:
            at: how the module is written, such as ``model.rnn``.
            lag: how many steps back the task needs.
            room: what the function's name begins with, such as ``tt.remedies.``.

        Example:
            >>> from throughtime.remedies import REMEDIES
            >>> REMEDIES["gated-cell"].line("model.rnn", 50)
            'model.rnn = gated(model.rnn, longest=50)'
        """
        if self.call is None:
            return ""
        return f"{at} = {room}{self.call(at, lag)}" if self.replaces else room + self.call(at, lag)

    def places(self, case: Case, places: Iterable[Place]) -> list[Place]:
        """Return where it fits.

        Args:
            case: the model.
            places: its recurrent modules.
        """
        among = [whole(case.model, case.flow)] if self.whole else places
        return [place for place in among if self.fits(case, place)]

    def apply(self, case: Case, places: Iterable[Place]) -> tuple[nn.Module, list[Change]]:
        """Change a model at these places, in place.

        Args:
            case: the model, which is changed.
            places: as `places` returned them.

        Returns:
            The model (a new module where the model itself was the layer that was replaced), and
            what was done at each place.
        """
        model, done = case.model, []
        for place in places:
            done.append(change := self.change(case, place))
            if change.module is not None:
                model = replace_module(model, place.path, change.module)
        return model, done


def copied(model: nn.Module) -> nn.Module:
    """Return a deep copy of a model.

    Raises:
        UnsupportedError: it cannot be copied.
    """
    try:
        return copy.deepcopy(model)
    except Exception as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnsupportedError(
            f"{type(model).__name__} cannot be copied, so no remedy can be tried on it ({why}); "
            "give a model without tensors that hang on a graph, such as a state kept from an "
            "earlier batch."
        ) from error


def flow_of(model: nn.Module, losses: Losses, *, last_only: bool = False) -> Flow:
    """Return the flow of a model; with ``last_only`` of its last loss alone, which is cheap."""
    with trace(model) as watched:
        found = losses(model)
    return watched.flow(found, every=LAST_ONLY if last_only else None)


def plain_weights(module: nn.Module) -> bool:
    """Check whether a module's weights are its own: a parametrized one is computed anew."""
    return not any(parametrize.is_parametrized(part) for part in module.modules())


def steps_read(layer: LayerFlow) -> Tensor:
    """Return what a layer reads at the steps that it takes, (N, I), float64."""
    x = layer.tape.x.detach()
    taken = x.flatten(0, 1) if layer.tape.active is None else x[layer.tape.active]
    return taken.to(torch.float64)
