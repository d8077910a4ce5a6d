"""A flow as a short table of text, no line longer than 80 characters."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from torch import Tensor

from ..errors import ThroughTimeError
from .view import LayerView, least

__all__ = ["Judged", "judged", "text_of", "units"]

WIDTH = 80
F = TypeVar("F")


class Judged(Protocol):
    """What this room needs to know of a finding."""

    @property
    def code(self) -> str:
        """What is wrong, in a word."""
        ...

    @property
    def severity(self) -> str:
        """How bad it is."""
        ...

    @property
    def layer(self) -> str | None:
        """Where; None: in the whole model."""
        ...

    @property
    def what(self) -> str:
        """What is wrong, in a sentence."""
        ...

    @property
    def remedy(self) -> str:
        """What to change."""
        ...


def units(layer: LayerView) -> int:
    """Return how many units a layer has; an LSTM's state is twice as wide, h and c.

    Args:
        layer: a layer's flow.
    """
    return layer.S if layer.cell is None else layer.cell.hidden_size


def text_of(
    flow: Mapping[str, LayerView], skipped: Mapping[str, str], found: Sequence[Judged] | None
) -> str:
    """Return one line a layer, of several runs the one that reaches least, and what is wrong.

    Args:
        flow: the layers.
        skipped: what was not followed, and why.
        found: what is wrong, the most harmful first; None where nobody looked.
    """
    judged = found is not None
    head = ("layer", *(("finding",) if judged else ()), "cell", "steps", "rows", "units",
            "reaches", "left")  # fmt: skip
    rows: list[tuple[str, ...]] = [head]
    notes: list[str] = []
    for name, count in least(flow).items():
        layer, own = flow[name], name or "the model"
        broken = layer.first_nonfinite
        profile = layer.lag_profile()
        reach = f"{layer.horizon_text()} of {len(profile) - 1}"
        left = _at_farthest(profile, layer.window_ends)
        rows.append(
            (
                own,
                *((_leading(found, name),) if found is not None else ()),
                layer.kind,
                str(layer.T),
                str(layer.B),
                str(units(layer)),
                "-" if broken else reach,
                "-" if broken else left,
            )
        )
        if count > 1:
            notes.append(f"{own}: of {count} runs the one that reaches least")
        if broken:
            kind = {"nan": "NaN"}.get(broken.kind, broken.kind)
            notes.append(f"{own}: the first {kind} is {broken.where}, step {broken.step}")
    notes.append(
        "reaches: steps back over which a typical gradient keeps 1 %; left: of it, at the end"
    )
    notes += [f"not followed: {path or 'the model'} {why}" for path, why in skipped.items()]
    lines = _columns(rows)
    lines += [_folded(note) for note in notes]
    if found:
        first = found[0]
        more = f" ({len(found) - 1} more: tt.examine(flow))" if len(found) > 1 else ""
        of_all = f" ({first.code})" if first.layer is None else ""
        lines += ["", _folded(f"{first.severity}{of_all}: {first.what}")]
        lines.append(_folded(f"What to change: {first.remedy}{more}"))
    elif judged:
        lines.append("nothing found: tt.examine(flow) says what that does not mean")
    return "\n".join(lines)


def judged(flow: F, judge: Callable[[F], Sequence[Judged]] | None) -> Sequence[Judged] | None:
    """Return what is wrong with a flow, or None where that cannot be told any more.

    Args:
        flow: the flow.
        judge: finds it; None: nobody looks.
    """
    try:
        return None if judge is None else judge(flow)
    except ThroughTimeError:  # a graph that was freed, say: a table is still better than an error
        return None


def _leading(found: Sequence[Judged], name: str) -> str:
    """Return the code of a layer's first finding, or of what is wrong with the whole model."""
    own = [one.code for one in found if one.layer == name]
    whole = [one.code for one in found if one.layer is None and one.severity != "note"]
    return (own or whole or ["none"])[0]


def _at_farthest(profile: Tensor, window: int | None) -> str:
    """Return the profile at the last lag; where a window ends before it, at the window's end."""
    if window is None:
        return f"{float(profile[-1]):.2g}"
    return f"{float(profile[window]):.2g} (at {window})"


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the rows as lines; where they are too long, names and findings above."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    apart = sum(widths) + 2 * (len(widths) - 1) > WIDTH
    if apart:
        before = rows[0].index("cell")
        rows = [("  ".join(row[:before]), *row[before:]) for row in rows]
        widths = [len(rows[0][0]), *widths[before:]]
    out = []
    for row in rows:
        cells = list(row)
        if apart and len(cells[0]) > widths[0]:
            out += textwrap.wrap(cells[0], WIDTH)
            cells[0] = ""
        line = "  ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)).rstrip()
        out.append(line)
        if row is rows[0]:
            out.append("  ".join("─" * w for w in widths))
    return out


def _folded(text: str) -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)
