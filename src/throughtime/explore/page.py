"""The page, put together: one HTML file with its engine, its words and its weights."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputValueError
from ..files import check_writable, write_whole
from ..report.page import inside_script, render
from .network import Settings, drawn
from .own_flow import check_flow
from .texts import readings, vocabulary

__all__ = ["ENGINE", "LANGUAGES", "engine_js", "page_data", "page_html", "write_page"]

HERE = Path(__file__).parent
# In the order in which they are read: a file may use what stands before it.
ENGINE = (
    "numbers", "matrix", "products", "spectral", "elman", "lstm", "gru", "network", "sweeps",
    "bounds", "precision", "explore", "worker",
)  # fmt: skip
SCREEN = (
    "format", "words_en", "words_zh", "colours", "parts", "equations", "sentences", "facts",
    "charts", "map", "flow", "engine_thread", "main",
)  # fmt: skip
LANGUAGES = ("en", "zh")


def write_page(
    path: str | os.PathLike[str],
    *,
    flow: Mapping[str, Any] | None = None,
    language: str = "en",
) -> Path:
    """Write the explorable page: one HTML file that needs no network.

    Args:
        path: of the file; its folder must exist.
        flow: one that is open from the start, as `flow_data` or `Flow.to_dict` returned it.
        language: in which it opens, "en" or "zh"; the reader may switch.

    Raises:
        FileError: it cannot be written.
        InputValueError: no such language, or no flow that the page can show.
        PackageError: Jinja is not installed.
    """
    target = check_writable(path)
    return write_whole(target, page_html(flow=flow, language=language))


def page_html(
    *,
    flow: Mapping[str, Any] | None = None,
    settings: Settings | None = None,
    language: str = "en",
) -> str:
    """Return the page as a string of HTML.

    Args:
        flow: one that is open from the start.
        settings: where the sliders stand at first.
        language: in which it opens.

    Raises:
        InputValueError: no such language, or no flow that the page can show.
        PackageError: Jinja is not installed.

    Example:
        >>> html = page_html(language="zh")
        >>> len(html) < 1_000_000, "为什么" in html
        (True, True)
    """
    if language not in LANGUAGES:
        raise InputValueError(f"language must be 'en' or 'zh'; got {language!r}.")
    data = page_data(settings or Settings()) | {"language": language}
    if flow is not None:
        data["flow"] = check_flow(flow)
    return render(
        "explore.html.j2",
        scripts=False,
        folder=HERE,
        title="Why is the far name harder to learn?",
        stops=len(data["readings"]),
        engine_js=engine_js(),
        page_js=_joined("screen", SCREEN),
        explore_css=(HERE / "explore.css").read_text(encoding="utf-8"),
        uplot_licence=(HERE / "vendor" / "uPlot.LICENSE").read_text(encoding="utf-8"),
        uplot_js=(HERE / "vendor" / "uPlot.iife.min.js").read_text(encoding="utf-8"),
        uplot_css=(HERE / "vendor" / "uPlot.min.css").read_text(encoding="utf-8"),
        data_json=inside_script(json.dumps(data, ensure_ascii=False)),
    )


def page_data(settings: Settings) -> dict[str, Any]:
    """Return the weights and texts, and where the sliders stand, as plain data.

    Args:
        settings: where the sliders stand at first.
    """
    number = {word: n for n, word in enumerate(vocabulary())}
    texts = [
        {**vars(text), "words": list(text.words), "numbers": [number[word] for word in text.words]}
        for text in readings()
    ]
    return {"settings": vars(settings).copy(), "drawn": drawn().to_dict(), "readings": texts}


def engine_js() -> str:
    """Return the engine: plain JavaScript that runs in a worker, or wherever numbers are wanted."""
    return _joined("engine", ENGINE)


def _joined(folder: str, names: tuple[str, ...]) -> str:
    return "\n".join((HERE / folder / f"{name}.js").read_text(encoding="utf-8") for name in names)
