"""`throughtime treat`: remedies tried on copies of a user's own model, each measured again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from torch import nn

from ..files import check_writable
from ..packages import need_plotly
from ..remedies import REMEDIES, Treatment
from ..remedies import treat as tried
from ..report import write_report
from .options import Lag, Seed, Target, with_options
from .target import beside, called, function_of, returned
from .terminal import notes, print_json, results

__all__ = ["treat"]


@dataclass
class Options:
    """What `throughtime treat` is told."""

    target: Target
    lag: Lag = None
    only: Annotated[
        str | None,
        typer.Option(
            help=f"Only these, separated by commas: {', '.join(REMEDIES)}.", metavar="NAMES"
        ),
    ] = None
    train: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Train copies too: a function train(model, updates) in FILE.py that trains the "
            "model it is given for so many updates and returns a score, higher being better.",
        ),
    ] = None
    seeds: Annotated[
        int, typer.Option(help="With --train: copies of each.", min=1, metavar="N")
    ] = 1
    updates: Annotated[
        int, typer.Option(help="With --train: how many in all.", min=1, metavar="N")
    ] = 400
    resume: Annotated[
        Path | None,
        typer.Option(
            help="With --train: a folder that keeps each finished score, and goes on from them.",
            metavar="FOLDER",
        ),
    ] = None
    html: Annotated[
        Path | None,
        typer.Option(help="A page to write: what is wrong, table, figure, lines.", metavar="FILE"),
    ] = None
    seed: Seed = 0
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False


@with_options(Options)
def treat(options: Options) -> None:
    """Try each remedy on a copy of your own model and measure it again: table, best, line to paste.

    FUNCTION takes no argument and returns (model, batch, losses), as for profile. Without --train
    nothing is trained. Ctrl-C ends it with the rows so far; with --resume, the same command goes on
    from there.

    Exit code 1: something is wrong with the model and no remedy helps, or it was interrupted.

    For example: throughtime treat examples/profile_lstm.py:last_word --lag 15 --html treated.html

    Raises:
        Exit: with code 1.
    """
    if options.html is not None:
        need_plotly()
        check_writable(options.html)
    function = function_of(options.target)
    train = None if options.train is None else beside(options.target, options.train)
    model, batch, losses, _ = returned(function, options.target, options.seed)

    def of(given: nn.Module) -> Any:
        return called(lambda: losses(given, batch), f"losses of {options.target}")

    only = None if options.only is None else [name.strip() for name in options.only.split(",")]
    found = tried(
        model,
        of,
        lag=options.lag,
        only=only,
        train=train,
        seeds=options.seeds,
        updates=options.updates,
        resume=options.resume,
    )
    _show(found, options)
    if found.interrupted or (found.needed and found.best is None):
        raise typer.Exit(1)


def _show(found: Treatment, options: Options) -> None:
    """Write the page and print what came out."""
    page = options.html
    if page is not None:
        write_report(found.flow, page, treatment=found)
    if options.as_json:
        data = {"target": options.target, **found.to_dict(), "code": found.code()}
        print_json({**data, "page": None if page is None else str(page)})
        return
    results().print(repr(found), markup=False, soft_wrap=True)
    if page is not None:
        notes().print(f"Page: {page}", markup=False)
    if found.interrupted and options.resume is not None:
        notes().print("The same command goes on from here.", markup=False)
