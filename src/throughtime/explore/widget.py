"""The explorer as a widget in a notebook: its sliders are attributes, and so is what arrives."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import PackageError
from .network import CELLS, NONLINEARITIES, Settings
from .page import page_html
from .texts import BETWEEN

try:
    import anywidget  # pyright: ignore[reportMissingImports]
    import traitlets  # pyright: ignore[reportMissingImports]
except ImportError as error:
    raise PackageError(
        "throughtime.explore.widget needs anywidget, which is not installed: "
        "pip install 'throughtime[notebook]'."
    ) from error

__all__ = ["Explorer"]


class Explorer(anywidget.AnyWidget):  # pyright: ignore[reportGeneralTypeIssues]
    """The explorable page in a notebook, by anywidget.

    Attributes:
        cell: "Elman", "LSTM" or "GRU"; like the next four, it follows the page, and the page it.
        gain: of the recurrent weights, 0.2 to 4.
        bias: of the forget or update gate, −2 to 6.
        nonlinearity: of the Elman cell.
        stop: which far text.
        near: what arrives at John in the near text; None before the first answer, and where it is
            not finite.
        far: the same in the far text.

    Example:
        >>> from throughtime.explore.widget import Explorer  # doctest: +SKIP
        >>> explorer = Explorer(cell="LSTM", bias=4.0)  # doctest: +SKIP
    """

    _esm = (Path(__file__).parent / "widget.js").read_text(encoding="utf-8")

    html = traitlets.Unicode().tag(sync=True)
    height = traitlets.Int(860).tag(sync=True)
    cell = traitlets.Enum(tuple(CELLS), "Elman").tag(sync=True)
    gain = traitlets.Float(1.0, min=0.2, max=4.0).tag(sync=True)
    bias = traitlets.Float(0.0, min=-2.0, max=6.0).tag(sync=True)
    nonlinearity = traitlets.Enum(NONLINEARITIES, "tanh").tag(sync=True)
    stop = traitlets.Int(5, min=0, max=len(BETWEEN) - 1).tag(sync=True)
    near = traitlets.Float(None, allow_none=True).tag(sync=True)
    far = traitlets.Float(None, allow_none=True).tag(sync=True)

    def __init__(
        self, *, flow: Mapping[str, Any] | None = None, language: str = "en", **settings: Any
    ) -> None:
        """Put the page together.

        Args:
            flow: one that is open from the start, as `flow_data` or `Flow.to_dict` returned it.
            language: in which it opens, "en" or "zh".
            settings: where the sliders stand at first, and ``height`` in pixels.
        """
        super().__init__(**settings)
        at_first = Settings(self.cell, self.gain, self.bias, self.nonlinearity, self.stop)
        self.html = page_html(flow=flow, settings=at_first, language=language)
