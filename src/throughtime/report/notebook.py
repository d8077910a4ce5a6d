"""How a notebook shows a flow: importing this module is enough (nothing is drawn until then).

``flow`` may not import this room, so this room sets the method on its class; jinja2 is imported
when a flow is displayed for the first time, Plotly not at all.
"""

from __future__ import annotations

from html import escape

from ..flow import Flow

__all__ = ["flow_html"]

HEIGHT = 900  # until the frame has measured itself
MANY = 4  # of more layers the maps are left out


def flow_html(flow: Flow) -> str:
    """Return a flow's verdicts and its two first figures as HTML for a notebook's output.

    It is the report in a frame, so that neither the notebook's styles nor its scripts meddle with
    it, and it still shows without a network and after the notebook was closed.

    Args:
        flow: what ``trace.flow`` returned.

    Cost:
        20 kB, and 10 to 40 more for each layer, since the figures are still ones. `figure` gives
        those that show their values under the mouse, and `write_report` all of them.
    """
    from .report import report_html

    kinds = ("lag", "map") if len(flow) <= MANY else ("lag",)
    page = report_html(flow, kinds=kinds, title="How far back the gradient reaches", brief=True)
    fit = (
        "var f=this;function g(){f.style.height="
        "(f.contentDocument.documentElement.scrollHeight+4)+'px'}"
        "g();f.contentDocument.addEventListener('toggle',g,true);f.contentWindow.onresize=g"
    )
    return (
        f'<iframe title="throughtime: the gradient by layer" onload="{escape(fit)}" '
        f'style="width:100%;height:{HEIGHT}px;border:0" srcdoc="{_quoted(page)}"></iframe>'
    )


def _quoted(page: str) -> str:
    """Return a page as an attribute's value: these two characters are all that must be written."""
    return page.replace("&", "&amp;").replace('"', "&quot;")


Flow.html = flow_html
