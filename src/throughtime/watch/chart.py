"""A training in one figure: how far the gradient reached, and the gradient by lag."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import InputValueError, LayerNotFoundError
from ..packages import need_plotly
from .history import History
from .raster import BRIGHT, DARK, SCALE, grid

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["chart"]

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#222222")


def chart(history: History, layer: str | None = None) -> Figure:
    """Return the figure: above, each layer's horizon over training; below, the map of one layer.

    The map shows for each training step (across) what share of the gradient arrives at each lag
    (up), from 10⁻⁴ to 10 times what lag 0 gets.

    Args:
        history: what was measured.
        layer: whose map is drawn; None: the one that reached the fewest steps at the end.

    Raises:
        InputValueError: nothing has been measured yet.
        LayerNotFoundError: there is no layer of that name.
        PackageError: Plotly is not installed.
    """
    need_plotly()
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    layers = history.layers
    if not layers:
        raise InputValueError(
            "nothing has been measured yet, so there is nothing to draw; train for a step inside "
            "`with monitor:` and call monitor.record(loss)."
        )
    if layer is not None and layer not in layers:
        raise LayerNotFoundError(f"there is no layer {layer!r}; there is {', '.join(layers)}.")
    shown = layer or min(layers, key=lambda name: _last_horizon(history, name))
    out = make_subplots(
        rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.12, row_heights=[0.4, 0.6],
        subplot_titles=("horizon: the last lag with at least 1 %", f"{shown}: gradient by lag"),
    )  # fmt: skip
    for number, name in enumerate(layers):
        steps, horizon = history.series(name, "horizon")
        out.add_trace(_line(go, name, steps, horizon, COLORS[number % len(COLORS)]), row=1, col=1)
    out.add_trace(_map(go, history, shown), row=2, col=1)
    out.update_yaxes(title_text="steps", rangemode="tozero", row=1, col=1)
    out.update_yaxes(title_text="lag: steps behind the loss", row=2, col=1)
    out.update_xaxes(title_text="training step", row=2, col=1)
    out.update_layout(
        title="How far the gradient reaches, over training",
        template="plotly_white",
        height=640,
        legend={"orientation": "h", "y": 1.1, "x": 1, "xanchor": "right"},
    )
    return out


def _line(go: Any, name: str, steps: list[int], values: list[float], color: str) -> Any:
    return go.Scatter(
        x=steps,
        y=values,
        mode="lines+markers" if len(steps) < 50 else "lines",
        name=name,
        line={"color": color, "width": 2},
        hovertemplate=f"{name}<br>step %{{x}}: %{{y:.0f}} steps<extra></extra>",
    )


def _map(go: Any, history: History, layer: str) -> Any:
    steps, values = grid(history, layer)
    ticks = list(range(int(DARK), int(BRIGHT) + 1))
    return go.Heatmap(
        x=steps,
        y=list(range(len(values))),
        z=values,
        zmin=DARK,
        zmax=BRIGHT,
        colorscale=[[n / (len(SCALE) - 1), color] for n, color in enumerate(SCALE)],
        colorbar={
            "title": {"text": "relative to lag 0", "side": "right"},
            "tickvals": ticks,
            "ticktext": [f"10<sup>{power}</sup>".replace("-", "−") for power in ticks],
            "len": 0.55,
            "y": 0.26,
        },
        hovertemplate="step %{x}, lag %{y}: 10^%{z:.1f}<extra></extra>",
    )


def _last_horizon(history: History, layer: str) -> float:
    """Return the last horizon that is a number."""
    known = [value for value in history.series(layer, "horizon")[1] if value == value]
    return known[-1] if known else float("inf")
