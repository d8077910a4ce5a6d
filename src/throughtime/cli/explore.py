"""`throughtime explore`: the page that computes as sliders move."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..explore import read_flow, write_page
from ..files import check_writable
from .terminal import print_json, results

__all__ = ["explore"]


def explore(
    out: Annotated[Path, typer.Option(help="The page to write.", metavar="PAGE")] = Path(
        "throughtime-explore.html"
    ),
    flow: Annotated[
        Path | None,
        typer.Option(
            help="A flow of your own to open in it, as throughtime.explore.write_flow wrote it.",
            metavar="FILE.json",
        ),
    ] = None,
    language: Annotated[
        str, typer.Option(help="In which it opens: en or zh.", metavar="CODE")
    ] = "en",
    as_json: Annotated[bool, typer.Option("--json", help="Print where it is as JSON.")] = False,
) -> None:
    """Write a page that shows, as you move its sliders, why a far name is harder to learn.

    One file that needs no network: the two sentences about John, the equations with their numbers,
    computed in the browser for the network that you choose.

    With a network of your own: throughtime explore --flow flow.json
    """
    check_writable(out)
    data = None if flow is None else read_flow(flow)
    size = write_page(out, flow=data, language=language).stat().st_size
    if as_json:
        print_json({"page": str(out), "bytes": size})
        return
    results().print(f"Open [bold]{out}[/bold] in a browser ({size / 1000:.0f} kB).")
