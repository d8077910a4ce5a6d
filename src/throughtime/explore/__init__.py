"""A page that computes in the reader's browser: why the far name is harder, as sliders move.

`write_page` writes it; `write_flow` writes a flow of one's own, for the page to open; `layer` is
the network of its sliders here in Python. `throughtime.explore.widget` shows it in a notebook.
"""

from .network import Settings, layer
from .own_flow import flow_data, read_flow, write_flow
from .page import page_html, write_page

__all__ = [
    "Settings",
    "flow_data",
    "layer",
    "page_html",
    "read_flow",
    "write_flow",
    "write_page",
]
