"""`throughtime treat`: remedies tried on copies of a user's own model, each measured again."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Annotated

import typer
from torch import nn

from ..files import check_writable, write_whole
from ..remedies import REMEDIES, Treatment
from ..remedies import treat as tried
from .target import called, function_of, returned
from .terminal import notes, print_json, results

__all__ = ["treat"]


def treat(
    target: Annotated[
        str, typer.Argument(metavar="FILE.py:FUNCTION", help="The function that returns the model.")
    ],
    lag: Annotated[
        int | None, typer.Option(help="How many steps back the task needs.", min=1)
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(help=f"Only these, separated by commas: {', '.join(REMEDIES)}."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A page with table and figure to write.")] = None,
    seed: Annotated[int, typer.Option(help="Set before FUNCTION is called.", min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
) -> None:
    """Try each remedy on a copy of your own model and measure it again: table, best, line to paste.

    FUNCTION takes no argument and returns (model, batch, losses), as for profile. Nothing is
    trained; for that, call throughtime.treat with train=. Ctrl-C ends it with the rows so far.

    Exit code 1: something is wrong with the model and no remedy helps, or it was interrupted.

    For example: throughtime treat examples/profile_lstm.py:build --lag 50

    Raises:
        Exit: with code 1.
    """
    if out is not None:
        check_writable(out)
    model, batch, losses, _ = returned(function_of(target), target, seed)

    def of(given: nn.Module):
        return called(lambda: losses(given, batch), f"losses of {target}")

    chosen = None if only is None else [name.strip() for name in only.split(",")]
    found = tried(model, of, lag=lag, only=chosen)
    if out is not None:
        write_whole(out, _page(found, target))
    if as_json:
        page = None if out is None else str(out)
        print_json({"target": target, **found.to_dict(), "code": found.code(), "page": page})
    else:
        results().print(repr(found), markup=False, soft_wrap=True)
        if out is not None:
            notes().print(f"Page: {out}", markup=False)
    if found.interrupted or (found.needed and found.best is None):
        raise typer.Exit(1)


def _page(found: Treatment, target: str) -> str:
    """Return one self-contained page: what came out, and the figure."""
    figure = found.figure().to_html(full_html=False, include_plotlyjs=True)
    title = escape(f"Remedies tried on {target}")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width">'
        "<style>body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;"
        "padding:0 1rem}pre{overflow-x:auto;font-size:.8rem}</style></head>"
        f"<body><h1>{title}</h1><pre>{escape(repr(found))}</pre>{figure}</body></html>"
    )
