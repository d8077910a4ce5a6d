"""HTML pages: one file that needs no network, with plotly.js in it once."""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import os
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import FileError, InputTypeError
from . import palette
from .figures.base import Drawing
from .numbers import symbols

__all__ = ["Plot", "check_writable", "plot", "render", "write"]


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


def check_writable(path: str | os.PathLike[str]) -> Path:
    """Return the path, or raise before any work is done for a file that cannot be written.

    Args:
        path: where a page is to go.

    Raises:
        FileError: the folder is missing or not writable, the path is a folder, or no name that a
            file can have.
        InputTypeError: ``path`` is no path.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise InputTypeError(f"path must be a path to a file; got {type(path).__name__}.")
    path = Path(path)
    folder = path.parent
    try:
        os.lstat(path)
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:  # a name too long, or with a null byte
        if not isinstance(error, (NotADirectoryError, PermissionError)):
            why = getattr(error, "strerror", None) or error
            raise FileError(f"cannot write {str(path)!r}: {why}. Give another name.") from error
    if path.is_dir():
        raise FileError(f"a page needs a file name; {path} is a folder. Use {path / 'flow.html'}.")
    if not folder.exists():
        raise FileError(f"cannot write {path}: the folder {folder} does not exist. Create it.")
    if not folder.is_dir():
        raise FileError(f"cannot write {path}: {folder} is a file, not a folder.")
    if not os.access(folder, os.W_OK):
        raise FileError(f"cannot write {path}: no permission to write into {folder}.")
    if path.exists() and not os.access(path, os.W_OK):
        raise FileError(f"cannot write {path}: it exists and is read-only.")
    return path


def write(html: str, path: str | os.PathLike[str]) -> Path:
    """Write a page whole or not at all: to a file beside it, which then takes its place.

    Args:
        html: the page.
        path: where it goes.

    Raises:
        FileError: it cannot be written; what was there before is still there.
    """
    path = check_writable(path)
    temporary: Path | None = None
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        temporary = Path(name)
        with os.fdopen(handle, "w", encoding="utf-8", errors="replace") as file:
            file.write(html)
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp's 0600 would keep a web server out
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()
        raise FileError(f"cannot write {path}: {error.strerror or error}.") from error
    return path
