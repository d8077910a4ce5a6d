"""The figures of a flow: one file per kind, one row for each here."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ...errors import InputTypeError, InputValueError, LayerNotFoundError
from ...flow import LayerView
from ...packages import need_plotly
from . import by_step, jacobian, lag, lyapunov, overview, pairs, weights, words
from .base import Drawing

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["KINDS", "Drawing", "Kind", "draw", "figure"]


class Kind(NamedTuple):
    """How a kind of figure is drawn, and whether of one layer or of the whole flow."""

    draw: Callable[..., Drawing]
    of_layer: bool = True


KINDS: dict[str, Kind] = {
    "lag": Kind(lag.draw),
    "map": Kind(pairs.draw),
    "words": Kind(words.draw),
    "weights": Kind(weights.draw),
    "jacobian": Kind(jacobian.draw),
    "lyapunov": Kind(lyapunov.draw),
    "overview": Kind(overview.draw, of_layer=False),
    "steps": Kind(by_step.draw, of_layer=False),
}


def draw(
    flow: Mapping[str, LayerView], kind: str, layer: str | None = None, **options: Any
) -> Drawing:
    """Return one figure as plain dicts with its words; arguments and errors as `figure`.

    Raises:
        InputValueError: no such kind, or a value that an option cannot have.
        InputTypeError: no flow, or no such option.
        LayerNotFoundError: no such layer, or several and none named.
    """
    if not isinstance(flow, Mapping):
        raise InputTypeError(
            f"flow must be what trace.flow(losses) returned; got {type(flow).__name__}."
        )
    if kind not in KINDS:
        raise InputValueError(f"kind must be one of {', '.join(KINDS)}; got {kind!r}.")
    row = KINDS[kind]
    known = [name for name, p in inspect.signature(row.draw).parameters.items()
             if p.kind is p.KEYWORD_ONLY]  # fmt: skip
    for name in options:
        if name not in known:
            raise InputTypeError(f"kind {kind!r} has the options {', '.join(known)}; got {name!r}.")
    return row.draw(one_layer(flow, layer) if row.of_layer else flow, **options)


def one_layer(flow: Mapping[str, LayerView], layer: str | None) -> LayerView:
    """Return a layer of a flow by name, or its only one.

    Raises:
        LayerNotFoundError: no such layer, or several and none named.
    """
    names = ", ".join(flow)
    if layer is None:
        if len(flow) == 1:
            return next(iter(flow.values()))
        raise LayerNotFoundError(
            f"the flow has {len(flow)} layers ({names}); say which one with layer=."
        )
    if layer not in flow:
        raise LayerNotFoundError(f"the flow has no layer {layer!r}; it has {names}.")
    return flow[layer]


def figure(
    flow: Mapping[str, LayerView], kind: str, layer: str | None = None, **options: Any
) -> Figure:
    """Draw one figure of a flow (eq. 3 to 7), with what it shows as its subtitle.

    ============  ==========================================================  ================
    kind          shows                                                       options
    ============  ==========================================================  ================
    "lag"         ‖∂E_t/∂s_k‖ by lag t − k, against both bounds of eq. 7      fraction, bounds
    "map"         log10 ‖∂E_t/∂s_k‖ over all pairs (t, k)                     most
    "words"       the words, shaded by the gradient that reaches them         words, loss, row
    "weights"     the share of each step in dE/dW (eq. 5)                     names
    "jacobian"    singular values of J_t by step (eq. 4)                      row, most
    "lyapunov"    the Lyapunov spectrum                                       n
    "overview"    the lag profiles of all layers                              fraction
    "steps"       what each step gets of all losses, in all layers            fraction
    ============  ==========================================================  ================

    Args:
        flow: what ``trace.flow`` returned: T steps, B rows, V losses for each layer.
        kind: one of the kinds above.
        layer: which layer; needed where the flow has several (and not for "overview" and "steps").
        options: of that kind.

    Cost:
        "jacobian" and "lag" decompose S × S matrices, at most 60 and T of them, fewer where S is
        large; the others only read what was measured.

    Raises:
        InputValueError: no such kind, or a value that an option cannot have.
        InputTypeError: no flow, or no such option.
        LayerNotFoundError: no such layer, or several and none named.
        PackageError: Plotly is not installed.

    Example:
        >>> model = torch.nn.GRU(3, 5)
        >>> with tt.trace(model) as trace:
        ...     losses = model(torch.randn(7, 2, 3))[0].pow(2).mean((1, 2))
        >>> flow = trace.flow(losses)
        >>> tt.figure(flow, "lag", fraction=0.1).layout.meta["heading"]
        'How far back does the gradient last?'
    """
    need_plotly()
    return draw(flow, kind, layer, **options).figure()
