"""HTML pages: one file that needs no network, with plotly.js in it once."""

from __future__ import annotations

import base64
import gzip
import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from ..packages import need_templates
from . import palette
from .figures.base import Drawing
from .number_text import symbols
from .still import still_svg

__all__ = ["Plot", "inside_script", "plot", "render", "still"]


@dataclass(frozen=True)
class Plot:
    """A figure as a page needs it: its words, and its data as JSON or else its own HTML."""

    id: str
    heading: str
    caption: str
    note: str
    equations: tuple[int, ...]
    json: str = ""
    html: str = ""


def plot(drawing: Drawing, id: str, html: str = "") -> Plot:
    """Prepare a drawing for `render`.

    Args:
        drawing: what to show.
        id: of the HTML element; unique on the page.
        html: shown in place of the Plotly figure.
    """
    words = (drawing.heading, drawing.caption, drawing.note, drawing.equations)
    if html or drawing.empty:
        return Plot(id, *words, html=html or " ")
    return Plot(id, *words, json=_figure_json(drawing))


def still(drawing: Drawing, id: str, html: str = "", width: int = 720) -> Plot:
    """Prepare a drawing for a page without a plotting library, as `plot` does for one with it.

    It cites no equation, since a page without the one is also without the others.

    Args:
        drawing: what to show.
        id: of the HTML element; unique on the page.
        html: shown in place of the figure.
        width: in pixels.
    """
    return plot(replace(drawing, equations=()), id, html or still_svg(drawing, id, width))


def _figure_json(drawing: Drawing) -> str:
    """Return data and layout as JSON, arrays as base64, the template left to the page."""
    import plotly.graph_objects as go

    figure = go.Figure(drawing.data, drawing.layout | {"template": "none"}).to_plotly_json()
    figure["layout"].pop("template", None)
    from plotly.io import to_json

    text = to_json({**figure, "height": drawing.height}, validate=False)
    assert text is not None
    return inside_script(text)


def inside_script(text: str) -> str:
    """Return JSON that is safe inside a script element, whatever words the user's text has.

    Args:
        text: the JSON.
    """
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def render(
    template: str, *, scripts: bool = True, folder: Path | None = None, **content: Any
) -> str:
    """Render a page from a template that extends ``base.html.j2``.

    Args:
        template: file name, such as "report.html.j2".
        folder: where it lies; None for beside this file, where ``base.html.j2`` is.
        scripts: whether the page holds the plotting library and draws its figures; without, they
            must be still.
        content: what the template names; ``title`` always.

    Raises:
        PackageError: Jinja is not installed.

    Example:
        >>> html = render("base.html.j2", title="empty")
        >>> html.count("<title>empty</title>")
        1
    """
    need_templates()
    import jinja2
    from markupsafe import Markup, escape

    from .. import __version__

    here = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder or here, here]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["symbols"] = lambda text: Markup(symbols(str(escape(text))))
    return environment.get_template(template).render(
        **{
            "version": __version__,
            "colours": {name: palette.css_variables(name) for name in palette.SCHEMES},
            "font": palette.FONT,
            "style": (here / "style.css").read_text(encoding="utf-8"),
            "scripts": _scripts(here) if scripts else None,
        }
        | content
    )


def _scripts(here: Path) -> dict[str, str]:
    """Return what a page draws its figures with."""
    from plotly.offline import get_plotlyjs

    schemes = {s: palette.plotly_template(s, transparent=True) for s in palette.SCHEMES}
    return {
        "plots_js": (here / "plots.js").read_text(encoding="utf-8"),
        "plotly_js": _packed(get_plotlyjs()),
        "templates": inside_script(json.dumps(schemes)),
    }


@cache
def _packed(script: str) -> str:
    """Return a script compressed, as base64: a third of its size; `plots.js` unpacks it."""
    return base64.b64encode(gzip.compress(script.encode("utf-8"), 9, mtime=0)).decode("ascii")
