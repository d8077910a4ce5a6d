"""How a notebook shows a flow: importing this module is enough (nothing is drawn until then).

``flow`` may not import this room, so this room sets the method on its class; Plotly and jinja2 are
imported when a flow is displayed for the first time.
"""

from __future__ import annotations

from html import escape

from ..flow import Flow

__all__ = ["flow_html"]

HEIGHT = 900  # until the frame has measured itself


def flow_html(flow: Flow) -> str:
    """Return a flow's verdicts and its two first figures as HTML for a notebook's output.

    It is the report in a frame, so that neither the notebook's styles nor its scripts meddle with
    it, and it still shows without a network and after the notebook was closed.

    Args:
        flow: what ``trace.flow`` returned.

    Cost:
        about 2 MB a display, most of it plotly.js.
    """
    from .report import report_html

    page = report_html(flow, kinds=("lag", "map"), title="The gradient’s way back", brief=True)
    fit = (
        "var f=this;function g(){f.style.height="
        "(f.contentDocument.documentElement.scrollHeight+4)+'px'}"
        "g();setTimeout(g,600);setTimeout(g,2500)"
    )
    return (
        f'<iframe title="throughtime: the gradient by layer" onload="{escape(fit)}" '
        f'style="width:100%;height:{HEIGHT}px;border:0" srcdoc="{escape(page)}"></iframe>'
    )


Flow.html = flow_html
