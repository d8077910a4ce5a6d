"""What came of trying remedies: a table, the best, the lines to paste, a figure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import nn

from ..errors import InputTypeError, InputValueError, LayerNotFoundError
from ..flow import Flow
from .base import Case, Change, Losses, Remedy
from .places import places_of
from .ranking import Interval, interval
from .reach import Measured, Reach
from .table import REMEDIES
from .undisturbed import undisturbed

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["AS_IT_IS", "Row", "Treatment"]

VERSION = 1
AS_IT_IS = "as it is"


@dataclass
class Row:
    """One remedy that was tried, or the model as it is.

    Attributes:
        name: of the remedy, or "as it is".
        measured: what was measured with it; None where it failed.
        before: of the model as it is, the layer that reaches farthest where the remedy is used.
        after: the same with the remedy.
        changes: what was done, with the lines to paste.
        helps: whether it helps: by its scores where models were trained, else by what was measured.
        further: whether ten times as much gets through, though it is less than 1 % or a cause
            that lies before it stays.
        why: what decided that, in a few words.
        scores: the last score of each seed, where it was trained.
        gain: the difference of its scores to those of the model as it is, seed by seed.
        updates: how many it was trained for.
        error: why it could not be tried.
    """

    name: str
    measured: Measured | None = None
    before: Reach | None = None
    after: Reach | None = None
    changes: tuple[Change, ...] = ()
    helps: bool = False
    further: bool = False
    why: str = ""
    scores: tuple[float, ...] = ()
    gain: Interval | None = None
    updates: int = 0
    error: str | None = None

    @property
    def remedy(self) -> Remedy | None:
        """The row of `REMEDIES`; None of the model as it is."""
        return REMEDIES.get(self.name)

    @property
    def score(self) -> Interval | None:
        """The mean score and its interval over seeds; None where it was not trained."""
        return interval(self.scores) if self.scores else None

    def code(self) -> str:
        """Return the lines to paste."""
        names = sorted({name for change in self.changes for name in change.names})
        lines = ["import throughtime as tt"] if any("tt." in c.code for c in self.changes) else []
        if names:
            lines.append(f"from throughtime.remedies import {', '.join(names)}")
        if any("torch." in c.code for c in self.changes):
            lines.insert(0, "import torch")
        if lines:
            lines.append("")
        return "\n".join([*lines, *(change.code for change in self.changes)])

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "name": self.name,
            "measured": None if self.measured is None else self.measured.to_dict(),
            "before": None if self.before is None else dict(vars(self.before)),
            "after": None if self.after is None else dict(vars(self.after)),
            "code": self.code() if self.changes else None,
            "helps": self.helps,
            "further": self.further,
            "why": self.why,
            "scores": list(self.scores),
            "gain": None if self.gain is None else self.gain._asdict(),
            "updates": self.updates,
            "error": self.error,
        }


@dataclass
class Treatment:
    """Remedies tried on copies of a model, each measured again.

    Attributes:
        rows: the model as it is first, then each remedy that was tried.
        best: the name of the best remedy; None where none helps, or none is needed.
        lag: at which lag reach was measured.
        asked: whether that lag was asked for; else it is that of the first step of the batch.
        needed: whether anything is wrong with the model as it is, as far as was measured.
        trained: whether copies were trained, so that scores decide.
        unfit: remedies of the table that have no place in this model, and were not tried.
        interrupted: whether Ctrl-C ended it, so that rows may be missing.
        order: the names of the remedies that help, the best first.
    """

    rows: list[Row]
    losses: Losses = field(repr=False)
    lag: int
    asked: bool
    best: str | None = None
    needed: bool = True
    trained: bool = False
    unfit: tuple[str, ...] = ()
    interrupted: bool = False
    order: tuple[str, ...] = ()

    @property
    def flow(self) -> Flow:
        """What was measured of the model as it is, for a report."""
        first = self.rows[0].measured
        assert first is not None and first.flow is not None
        return first.flow

    def __getitem__(self, name: str) -> Row:
        """Return a row by the remedy's name.

        Raises:
            InputValueError: there is no such row.
        """
        for row in self.rows:
            if row.name == name:
                return row
        names = ", ".join(row.name for row in self.rows)
        raise InputValueError(f"there is no row {name!r}; there are {names}.")

    def apply(self, model: nn.Module, name: str | None = None) -> nn.Module:
        """Change a model, in place, as the best remedy was measured to do.

        Draws are the same as in what was measured. Gradients stay; an optimizer that was built
        before does not know parameters that are new.

        Args:
            model: the one that `treat` was given, or one like it.
            name: another remedy than the best.

        Returns:
            ``model``; where it is itself the layer that another one replaces, that other one.

        Raises:
            InputTypeError: ``model`` is no module.
            InputValueError: none helped and none is named, or it could not be tried.
            LayerNotFoundError: ``model`` has other layers than the one that was treated.
        """
        if not isinstance(model, nn.Module):
            raise InputTypeError(f"model must be an nn.Module; got {type(model).__name__}.")
        if name is None and self.best is None:
            raise InputValueError(
                "no remedy helped, so there is none to apply; name one of the rows to apply it "
                "all the same."
            )
        row = self[name or self.best or ""]
        remedy = row.remedy
        if remedy is None or row.error is not None:
            raise InputValueError(f"{row.name!r} cannot be applied: {row.error or 'no remedy'}.")
        flow = self.flow
        case = Case(model, self.losses, flow, self.lag, done=row.changes)
        places = places_of(model, flow)
        missing = {n for n in flow} - {n for place in places for n in place.layers}
        if missing and not remedy.whole and not places:
            raise LayerNotFoundError(
                f"the model has no layer {sorted(missing)[0]!r}, which was treated."
            )
        with undisturbed():
            return remedy.apply(case, remedy.places(case, places))[0]

    def code(self, name: str | None = None) -> str:
        """Return the lines to paste for the best remedy, or another one; ``model`` is yours.

        Args:
            name: of a row; None for the best.
        """
        if name is None and self.best is None:
            return (
                "# none of the remedies that were tried helps" if self.needed else "# none needed"
            )
        return self[name or self.best or ""].code()

    def figure(self) -> Figure:
        """Draw the gradient by lag before and after, one line a remedy (Plotly).

        Raises:
            PackageError: Plotly is not installed.
        """
        from .chart import chart

        return chart(self)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data with a version; inf and NaN stay numbers."""
        return {
            "version": VERSION,
            "lag": self.lag,
            "asked": self.asked,
            "best": self.best,
            "order": list(self.order),
            "needed": self.needed,
            "trained": self.trained,
            "unfit": list(self.unfit),
            "interrupted": self.interrupted,
            "rows": [row.to_dict() for row in self.rows],
        }

    def __repr__(self) -> str:
        """Return a short table."""
        from .table_text import text

        return text(self)

    def _repr_html_(self) -> str:
        """Return the table for a notebook."""
        from html import escape

        return f"<pre>{escape(repr(self))}</pre>"
