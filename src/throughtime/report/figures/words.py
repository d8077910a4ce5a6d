"""A text whose words are shaded by how much of a loss's gradient reaches them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import numpy as np

from ...errors import InputValueError
from ...flow import LayerView
from ..arrange import array
from ..number_text import number, percent
from ..palette import SCHEMES
from .base import Drawing

__all__ = ["Shaded", "draw", "legend_html", "shade", "words_html"]

DECADES = 6.0  # below 10⁻⁶ of the strongest word, a word looks blank
SHOWN = {" ": "␣", "\n": "⏎", "\t": "⇥", "": "∅"}


class Shaded(NamedTuple):
    """Words and what of the gradient reaches each.

    Attributes:
        words: one a step, in the order in which the layer reads them.
        norms: ‖∂E_t/∂s_k‖ at each word (T,).
        strength: 0 to 1: 1 + log10(norm / largest) / 6, at least 0.
        step: where the loss enters.
        reverse: whether the layer reads the text from its end.
    """

    words: tuple[str, ...]
    norms: np.ndarray
    strength: np.ndarray
    step: int
    reverse: bool = False

    def in_text(self) -> list[int]:
        """Return the indices of the words in the order of the text."""
        order = range(len(self.words))
        return list(reversed(order)) if self.reverse else list(order)


def shade(
    layer: LayerView, words: Sequence[str], *, loss: int | None = None, row: int = 0
) -> Shaded:
    """Return how much of one loss's gradient reaches each word (eq. 3).

    Args:
        layer: the flow of one layer.
        words: one a step, in the order of the text, also for a layer that reads it from its end.
        loss: which loss; by default the one that enters last.
        row: which batch row.

    Raises:
        InputValueError: another number of words than steps, no such row, or no such loss.
    """
    if isinstance(words, str):
        raise InputValueError("words must be a sequence with one entry a step; got one str.")
    words = tuple(str(word) for word in words)
    if len(words) != layer.T:
        raise InputValueError(
            f"words must have one entry a step: {layer.name} took {layer.T} steps; "
            f"got {len(words)} words."
        )
    words = words[::-1] if layer.reverse else words
    if not 0 <= row < layer.B:
        raise InputValueError(f"row must be 0 to {layer.B - 1}; got {row}.")
    enters = layer.enters.cpu().numpy()[:, row]
    known = layer.loss_index.cpu().tolist()
    if loss is None:
        line = int(enters.argmax()) if len(enters) else 0
    elif loss in known:
        line = known.index(loss)
    else:
        raise InputValueError(f"there is no loss {loss} in this flow; it has {_range(known)}.")
    norms = array(layer.norms[line, 1:, row])
    usable = norms[np.isfinite(norms) & (norms > 0)]
    strength = np.zeros(len(words))
    if len(usable):
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.log10(norms / usable.max())
        strength = np.clip(1 + np.nan_to_num(logs, nan=-DECADES, posinf=0) / DECADES, 0, 1)
    return Shaded(words, norms, strength, int(enters[line]), layer.reverse)


def _range(known: list[int]) -> str:
    return ", ".join(map(str, known[:6])) + (f", … {known[-1]}" if len(known) > 6 else "")


def draw(
    layer: LayerView, *, words: Sequence[str] | None = None, loss: int | None = None, row: int = 0
) -> Drawing:
    """Draw the words as cells shaded by the gradient that reaches them (eq. 3).

    Args:
        layer: the flow of one layer.
        words: one a step.
        loss: which loss; by default the one that enters last.
        row: which batch row.

    Raises:
        InputValueError: no words, or another number of them than steps.
    """
    if words is None:
        raise InputValueError('kind "words" needs words=[...], one a step, to shade them.')
    shaded = shade(layer, words, loss=loss, row=row)
    columns = min(max(80 // max(max(map(len, shaded.words)), 3), 4), 24, len(shaded.words))
    lines = math.ceil(len(shaded.words) / columns)
    pad = lines * columns - len(shaded.words)
    order = shaded.in_text()
    text = [_visible(shaded.words[k]) for k in order] + [""] * pad
    fill = np.concatenate([shaded.strength[order], np.full(pad, np.nan)])
    hover = [_title(shaded, k) for k in order] + [""] * pad
    grid = (lines, columns)
    hidden = {"visible": False, "fixedrange": True}
    return Drawing(
        heading="Which words does the gradient reach?",
        caption=caption(shaded),
        note="The stronger the colour, the more arrives; none: less than 10⁻⁶ of the strongest."
        + (f" Batch row {row}." if layer.B > 1 else ""),
        equations=(3, 5),
        data=[
            {
                "type": "heatmap",
                "z": fill.reshape(grid).astype(np.float32),
                "text": np.array(text, dtype=object).reshape(grid).tolist(),
                "customdata": np.array(hover, dtype=object).reshape(grid).tolist(),
                "texttemplate": "%{text}",
                "textfont": {"color": SCHEMES["light"].ink},
                "hovertemplate": "%{customdata}<extra></extra>",
                "hoverongaps": False,
                "colorscale": [[0, "rgba(43,123,186,0)"], [1, "rgba(43,123,186,0.75)"]],
                "zmin": 0,
                "zmax": 1,
                "xgap": 3,
                "ygap": 3,
                "showscale": False,
            }
        ],
        layout={
            "xaxis": hidden,
            "yaxis": hidden | {"autorange": "reversed"},
            "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
        },
        height=max(34 * lines + 20, 90),
    )


def caption(shaded: Shaded) -> str:
    """Describe which words get how much, and what follows."""
    norms, t = shaded.norms, shaded.step
    if t == 0 or not np.isfinite(norms).any():
        return "No finite gradient of this loss reaches any word."
    here = norms[t - 1]
    if not np.nanmax(norms[:t], initial=0) > 0:
        return "This loss sends no gradient to any word: it is exactly 0 at its own step too."
    text = f"The loss at step {t} (“{_visible(shaded.words[t - 1])}”) is sent back over the text. "
    name = (
        f"the {'last of the text' if shaded.reverse else 'first'}, “{_visible(shaded.words[0])}”,"
    )
    reached = [k for k in range(t) if norms[k] >= 0.01 * here > 0]
    zeros = int((norms[:t] == 0).sum())
    first = norms[0]
    if len(reached) == t:
        text += (
            f"Every word up to it gets at least 1 % of what its own step gets; {name} gets "
            f"{_share(first, here)}. Each of them can still teach this layer something about it."
        )
    else:
        text += (
            f"{len(reached)} of the {t} words up to it get at least 1 % of what its own step gets; "
            f"{name} gets {_share(first, here)}. What the layer would have to learn from the pale "
            "words, it hardly learns from this loss."
        )
    if zeros:
        text += f" {zeros} {'word gets' if zeros == 1 else 'words get'} exactly 0."
    return text


def _share(part: float, whole: float) -> str:
    if part == 0:
        return "exactly 0"
    if not (whole > 0 and math.isfinite(part)):
        return "nothing finite"
    return percent(part / whole) + (" that" if part / whole >= 10 else "")


def words_html(shaded: Shaded, mark: Sequence[int] = ()) -> str:
    """Return the words as HTML that wraps like text, shaded, for `style.css`.

    Args:
        shaded: from `shade`.
        mark: words to underline, such as the mention of a name, counted from 1 in the text.
    """
    marked = set(mark)
    spans = []
    for place, k in enumerate(shaded.in_text(), 1):
        word, norm, after = shaded.words[k], shaded.norms[k], k + 1 > shaded.step
        kinds = ["word"]
        kinds += ["after"] if after else []
        kinds += ["zero"] if norm == 0 and not after else []
        kinds += ["broken"] if np.isinf(norm) else []
        kinds += ["asks"] if k + 1 == shaded.step else []
        kinds += ["marked"] if place in marked else []
        spans.append(
            f'<span class="{" ".join(kinds)}" style="--strength:{shaded.strength[k]:.3f}" '
            f'title="{escape(_title(shaded, k), quote=True)}">{escape(_visible(word))}</span>'
        )
    return f'<p class="words">{" ".join(spans)}</p>'


def legend_html() -> str:
    """Return the key of the shades, for below `words_html`."""
    keys = "".join(
        f'<span class="word" style="--strength:{1 - n / DECADES:.2f}">{text}</span>'
        for n, text in ((0, "strongest"), (2, "10⁻²"), (4, "10⁻⁴"), (6, "≤ 10⁻⁶"))
    )
    return (
        f'<p class="words key" aria-hidden="true">{keys}<span class="word zero">exactly 0</span>'
        '<span class="word asks">the loss is here</span></p>'
    )


def _title(shaded: Shaded, k: int) -> str:
    """Return what the pointer shows over a word."""
    if k + 1 > shaded.step:
        return f"step {k + 1}, after the loss: no gradient"
    lag, norm = shaded.step - k - 1, shaded.norms[k]
    largest = np.nanmax(np.where(np.isfinite(shaded.norms), shaded.norms, np.nan), initial=0)
    text = f"step {k + 1}, lag {lag}: norm {number(norm)}"
    if norm == 0:
        return text + " exactly"
    return text + (f", {percent(norm / largest)} of the strongest" if largest > 0 else "")


def _visible(word: str) -> str:
    return SHOWN.get(word, word)
