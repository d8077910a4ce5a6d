"""A layer under `torch.fx.symbolic_trace`: a leaf of the graph, as torch's own layers are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.fx import Proxy, Tracer

from ..errors import UnsupportedError

__all__ = ["is_drawn", "leaf"]


def is_drawn(values: Iterable[object]) -> bool:
    """Check whether one of a call's arguments is what `torch.fx.symbolic_trace` has for it."""
    return any(isinstance(value, Proxy) and isinstance(value.tracer, Tracer) for value in values)


def leaf(module: nn.Module, input: object, hx: object, options: dict[str, Any]) -> Proxy | None:
    """Return the call of a layer as one node of the graph that a tracer draws; None without one.

    `torch.fx` takes modules of ``torch.nn`` as leaves by where their class was written, and would
    go into others, whose steps depend on values that it does not have.

    Args:
        module: the layer that is called.
        input: what was given for x.
        hx: the initial state.
        options: the call's other arguments, by name.

    Raises:
        UnsupportedError: the layer itself is what is drawn, and a leaf has no inside to draw.
    """
    given = [value for value in (input, hx, *options.values()) if isinstance(value, Proxy)]
    if not given or not isinstance(given[0].tracer, Tracer):
        return None
    tracer = given[0].tracer
    said = {"hx": hx, **options}
    path = tracer.path_of_module(module)
    if not path:
        raise UnsupportedError(
            f"torch.fx.symbolic_trace takes a {type(module).__name__} as a leaf of the graph, and "
            "was given the layer itself, which leaves nothing to draw. Give it the model that the "
            "layer is part of, or nn.Sequential(layer)."
        )
    return tracer.create_proxy(
        "call_module", path, (input,), {n: v for n, v in said.items() if v is not None}
    )
