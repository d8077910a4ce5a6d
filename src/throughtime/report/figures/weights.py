"""The share of each step in a weight's gradient: which steps teach the layer."""

from __future__ import annotations

import numpy as np

from ...errors import InputValueError
from ...flow import LayerView
from .. import palette
from ..arrange import array
from ..number_text import percent, steps
from .base import Drawing, guide, layout

__all__ = ["draw"]


def draw(layer: LayerView, *, names: tuple[str, ...] | None = None) -> Drawing:
    """Draw ⟨G_k, G⟩/‖G‖², the share of step k in the gradient G = Σ_k G_k of a weight (eq. 5).

    Args:
        layer: the flow of one layer.
        names: which weights; by default all, of which the recurrent one shows at first.

    Raises:
        InputValueError: the layer has no such weight.
    """
    chosen = tuple(layer.weight_names if names is None else names)
    for name in chosen:
        if name not in layer.weight_names:
            known = ", ".join(layer.weight_names)
            raise InputValueError(f"{layer.name} has no weight {name!r}; it has {known}.")
    # The recurrent weight is the one this is about; it goes first and decides the caption.
    chosen = tuple(sorted(chosen, key=lambda name: ("weight_hh" not in name, "bias" in name)))
    shares = {name: array(layer.weight_share(name)) for name in chosen}
    T = layer.T
    data = [
        {
            "type": "scatter",
            "mode": "lines" if T > 1 else "markers",
            "x": np.arange(1, T + 1),
            "y": share,
            "name": name,
            "line": {
                "shape": "hvh",
                "width": 2,
                "color": palette.COLORWAY[i % len(palette.COLORWAY)],
                "dash": palette.DASHES[i % len(palette.DASHES)],
            },
            "visible": True if names or not i else "legendonly",
            "hovertemplate": f"{name} %{{y:.2%}}<extra></extra>",
            **({"fill": "tozeroy", "fillcolor": palette.SPREAD} if not i else {}),
        }
        for i, (name, share) in enumerate(shares.items())
    ]
    return Drawing(
        heading="Which steps teach the weights?",
        caption=_caption(layer, chosen[0], shares[chosen[0]]) if chosen else "It has no weights.",
        note="The shares of all steps sum to 1; a negative one pulls against the sum."
        + (" Click a name to show or hide it." if len(chosen) > 1 else ""),
        equations=(2, 5),
        data=data,
        empty=not any(
            np.isfinite(shares[trace["name"]]).any() for trace in data if trace["visible"] is True
        ),
        layout=layout(
            "step k",
            "share of dE/dW",
            whole=T,
            xaxis={"range": [0.5, T + 0.5]},
            yaxis={"tickformat": ".0%"},
            shapes=[guide("y", 0)],
            showlegend=True,
            hovermode="x unified",
        ),
        height=320,
    )


def _caption(layer: LayerView, name: str, share: np.ndarray) -> str:
    T = len(share)
    if not np.isfinite(share).all():
        zero = bool((layer.weight_grad(name) == 0).all())
        return (
            f"The gradient of {name} is {'exactly 0' if zero else 'not finite'}, so no step has a "
            "share in it: this batch teaches the weight nothing that can be used."
        )
    if T == 1:
        return f"There is one step, and it is all of {name}'s gradient."
    size = np.abs(share)
    if size.sum() == 0:
        return f"No step has a share in the gradient of {name}."
    early = share[: T // 2].sum()
    last, first = _needed(size[::-1]), _needed(size)
    end, need = ("first", first) if first < last else ("last", last)  # from the heavy end
    text = (
        f"The {end} {steps(need)} of {T} make up 90 % of the shares in {name}'s gradient, counted "
        f"by size; the first half of the sequence has {percent(float(early))} of the sum. "
    )
    if need < T / 3 and end == "first":
        return text + "An update follows the beginning of the sequence almost alone."
    if need < T / 3:
        return text + (
            "An update follows the end of the sequence almost alone: if what matters lies earlier, "
            "this weight does not learn it from this batch."
        )
    if early > 0.9:
        return text + "An update follows the beginning of the sequence almost alone."
    return text + (
        "An update takes in steps from most of the sequence. That says where in it, not over which "
        "distance: each step may be taught by its nearest losses alone."
    )


def _needed(size: np.ndarray) -> int:
    """Return how many entries from the beginning make up 90 % of the sum."""
    return int(np.searchsorted(np.cumsum(size) / size.sum(), 0.9)) + 1
