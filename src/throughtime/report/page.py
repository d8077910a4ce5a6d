"""HTML pages: one file that needs no network, with plotly.js in it once."""

from __future__ import annotations

import base64
import gzip
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from . import palette
from .figures.base import Drawing
from .numbers import symbols

__all__ = ["Plot", "plot", "render"]


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


def _figure_json(drawing: Drawing) -> str:
    """Return data and layout as JSON, arrays as base64, the template left to the page."""
    import plotly.graph_objects as go

    figure = go.Figure(drawing.data, drawing.layout | {"template": "none"}).to_plotly_json()
    figure["layout"].pop("template", None)
    from plotly.io import to_json

    text = to_json({**figure, "height": drawing.height}, validate=False)
    assert text is not None
    return _inside_script(text)


def _inside_script(text: str) -> str:
    """Make JSON safe inside a script element, whatever words the user's text has."""
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def render(template: str, **content: Any) -> str:
    """Render a page from a template beside this file that extends ``base.html.j2``.

    Args:
        template: file name, such as "report.html.j2".
        content: what the template names; ``title`` always.

    Example:
        >>> html = render("base.html.j2", title="empty")
        >>> html.count("<title>empty</title>")
        1
    """
    import jinja2
    from markupsafe import Markup, escape
    from plotly.offline import get_plotlyjs

    from .. import __name__ as package

    here = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(here),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["symbols"] = lambda text: Markup(symbols(str(escape(text))))
    return environment.get_template(template).render(
        **{
            "version": _version(package),
            "colours": {name: palette.css_variables(name) for name in palette.SCHEMES},
            "font": palette.FONT,
            "style": (here / "style.css").read_text(encoding="utf-8"),
            "plots_js": (here / "plots.js").read_text(encoding="utf-8"),
            "plotly_js": _packed(get_plotlyjs()),
            "templates": _inside_script(
                json.dumps(
                    {s: palette.plotly_template(s, transparent=True) for s in palette.SCHEMES}
                )
            ),
        }
        | content
    )


@cache
def _packed(script: str) -> str:
    """Return a script compressed, as base64: a third of its size; `plots.js` unpacks it."""
    return base64.b64encode(gzip.compress(script.encode("utf-8"), 9, mtime=0)).decode("ascii")


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:  # run from a source tree that was never installed
        return ""
