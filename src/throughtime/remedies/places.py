"""Where in a model its recurrent modules are, and how a reader writes that down."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import nn

__all__ = ["Place", "places_of", "replace_module", "whole"]

SUFFIX = re.compile(r"(?:^|\.)l\d+(?:_reverse)?$")


class Place(NamedTuple):
    """A recurrent module of a model.

    Attributes:
        path: its path in the model; "" for the model itself.
        module: the module.
        layers: the names that its layers have in the flow.
    """

    path: str
    module: nn.Module
    layers: tuple[str, ...]

    @property
    def expression(self) -> str:
        """How it is written: ``model.encoder[0].rnn``.

        Example:
            >>> Place("encoder.0.rnn", torch.nn.GRU(3, 4), ()).expression
            'model.encoder[0].rnn'
        """
        written = "model"
        for part in self.path.split(".") if self.path else ():
            if part.isdigit():
                written += f"[{part}]"
            else:
                written += f".{part}" if part.isidentifier() else f"[{part!r}]"
        return written

    def holds(self, name: str) -> bool:
        """Check whether a layer of a flow, also of a changed model, stands at this place."""
        plain = name.partition("@")[0]
        return not self.path or plain == self.path or plain.startswith(f"{self.path}.")


def places_of(model: nn.Module, flow: Mapping[str, Any]) -> list[Place]:
    """Return the modules that a flow's layers belong to, in the order in which they ran.

    What has no module (`tt.mark`) has no place.

    Args:
        model: any module.
        flow: its flow.
    """
    modules = dict(model.named_modules())
    found: dict[str, list[str]] = {}
    for name in flow:
        plain = name.partition("@")[0]
        path = SUFFIX.sub("", plain)
        if plain in modules and isinstance(modules[plain], nn.RNNCellBase):
            path = plain
        if path in modules:
            found.setdefault(path, []).append(name)
    return [Place(path, modules[path], tuple(names)) for path, names in found.items()]


def whole(model: nn.Module, flow: Mapping[str, Any]) -> Place:
    """Return the whole model as one place."""
    return Place("", model, tuple(flow))


def replace_module(model: nn.Module, path: str, module: nn.Module) -> nn.Module:
    """Put a module where another one is, wherever the model has it; return the model.

    Args:
        model: changed in place, unless it is itself what is replaced.
        path: of the module that goes.
        module: the one that comes.
    """
    if not path:
        return module
    old = model.get_submodule(path)
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = module
    return model
