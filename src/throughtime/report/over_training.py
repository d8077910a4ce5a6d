"""The report's section on a training: how far the gradient reached, as a monitor measured it."""

from __future__ import annotations

import math
import os

from ..errors import InputTypeError, InputValueError
from ..watch import History, Monitor, read
from ..watch.raster import BRIGHT, DARK, grid
from . import palette
from .figures.base import Drawing, layout
from .page import Plot, plot

__all__ = ["history_of", "over_training"]


def history_of(monitor: Monitor | History | str | os.PathLike[str]) -> History:
    """Return what was measured in a training.

    Args:
        monitor: a `Monitor`, its history, or the path of its JSON lines.

    Raises:
        InputTypeError: it is none of these.
        FileError: the file cannot be read.
    """
    if isinstance(monitor, Monitor):
        return monitor.history
    if isinstance(monitor, History):
        return monitor
    if isinstance(monitor, str | os.PathLike):
        return read(monitor)
    raise InputTypeError(
        "monitor must be a tt.Monitor, its history, or the path of its JSON lines; got "
        f"{type(monitor).__name__}."
    )


def over_training(history: History) -> list[Plot]:
    """Return the section's figures: each layer's horizon, and one map a layer.

    Args:
        history: what was measured.

    Raises:
        InputValueError: nothing was.
    """
    if not history.layers:
        raise InputValueError(
            "the monitor has measured nothing yet, so there is no training to show; leave "
            "monitor= out, or give one that has records."
        )
    maps = [
        plot(_map(history, layer), f"training-map-{number}")
        for number, layer in enumerate(history.layers)
    ]
    return [plot(_horizons(history), "training-horizon"), *maps]


def _horizons(history: History) -> Drawing:
    data = []
    for number, layer in enumerate(history.layers):
        steps, values = history.series(layer, "horizon")
        data.append(
            {
                "type": "scatter",
                "mode": "lines" if len(steps) > 30 else "lines+markers",
                "x": steps,
                "y": [value if math.isfinite(value) else None for value in values],
                "name": layer,
                "line": {
                    "color": palette.COLORWAY[number % len(palette.COLORWAY)],
                    "width": 2.25,
                    "dash": palette.DASHES[number % len(palette.DASHES)],
                },
                "hovertemplate": f"{layer} %{{y}} steps<extra></extra>",
            }
        )
    return Drawing(
        heading="How did the gradient’s reach change over training?",
        caption=_caption(history),
        data=data,
        layout=layout(
            "training step",
            "horizon: steps back with 1 % or more",
            yaxis={"rangemode": "tozero"},
            showlegend=len(data) > 1,
            hovermode="x unified",
        ),
        note=f"{len(history)} steps of the training were measured, each on its own batch.",
        height=320,
    )


def _caption(history: History) -> str:
    """Return each layer's first and last horizon, and what was found last."""
    said = []
    for layer in history.layers:
        known = [value for value in history.series(layer, "horizon")[1] if math.isfinite(value)]
        if known:
            first, last = f"{known[0]:.0f}", f"{known[-1]:.0f}"
            said.append(f"In {layer} the gradient reached {first} steps at first, {last} at last.")
        else:
            said.append(f"In {layer} no number was finite.")
    end = history[-1]
    loud = [found for found in end.findings if found.severity != "note"]
    if loud:
        said.append(f"At step {end.step}, the last one measured: {loud[0].what}")
    return " ".join(said)


def _map(history: History, layer: str) -> Drawing:
    steps, values = grid(history, layer)
    ticks = list(range(int(DARK), int(BRIGHT) + 1))
    heatmap = {
        "type": "heatmap",
        "x": steps,
        "y": list(range(len(values))),
        "z": values,
        "zmin": DARK,
        "zmax": BRIGHT,
        "colorscale": palette.MAP_SCALE,
        "colorbar": {
            "title": {"text": "of lag 0", "side": "right"},
            "tickvals": ticks,
            "ticktext": [f"10<sup>{power}</sup>".replace("-", "−") for power in ticks],
        },
        "hovertemplate": "step %{x}, lag %{y}: 10^%{z:.1f}<extra></extra>",
    }
    return Drawing(
        heading=f"{layer}: what arrived at each lag",
        caption="A band that reaches higher to the right is a memory that grew with training; one "
        "that sinks is one that was lost.",
        data=[heatmap],
        layout=layout("training step", "steps back (lag)"),
        note="Colours stay the same below 10⁻⁴ and above 10 times what lag 0 gets; where nothing "
        "arrives there is none.",
        empty=not bool(values.size) or all(math.isnan(value) for value in values.flat),
    )
