"""`throughtime demo`: the source's claim, measured."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer

from ..demo import Plan, Study, networks, study, terminal_tables, words, write_demo
from ..files import check_writable
from ..packages import need_plotly
from .terminal import notes, print_json, progress, results

__all__ = ["demo"]


def demo(
    out: Annotated[Path, typer.Option(help="The page to write.", metavar="FILE")] = Path(
        "throughtime-demo.html"
    ),
    seed: Annotated[int, typer.Option(help="Of weights and texts.", min=0, metavar="N")] = 0,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="A much smaller budget: it shows that all runs, no more."),
    ] = False,
    cells: Annotated[
        str,
        typer.Option(
            help="Which networks to compare, by name and separated by commas; besides the five: "
            "leaky RNN, minGRU, peephole LSTM, layer-norm LSTM.",
            metavar="NAMES",
        ),
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
) -> None:
    """Train five networks on one question, and measure how far back they can learn.

    "Jane walked into the room. John walked in too. Jane said hi to ___", and the same with a long
    sentence between. About one minute on two cores with the compiled kernels, three without; the
    same seed reproduces the same numbers.

    Others than the five: throughtime demo --cells "LSTM,minGRU,layer-norm LSTM"
    """
    need_plotly()
    check_writable(out)
    # Matrices this small gain nothing from a second thread, and sums keep their order with one.
    torch.set_num_threads(1)
    plan = Plan.quick(seed) if quick else Plan(seed=seed)
    measured = _measure(replace(plan, networks=networks(cells)) if cells else plan)
    write_demo(measured, out)
    if as_json:
        print_json({**measured.to_dict(), "page": str(out)})
        return
    console = results()
    for title, rows in terminal_tables.tables(measured):
        console.print()
        console.print(title, style="bold")
        console.print(rows)
    console.print(
        "\n* took all its updates and did not learn the task. In brackets: 95 % interval.\n"
    )
    for sentence in words.terminal_summary(measured):
        console.print(f"• {sentence}")
    console.print(f"\nThe whole story, with figures: [bold]{out}[/bold]")


def _measure(plan: Plan) -> Study:
    began = time.perf_counter()
    with progress("updates") as bar:
        task = bar.add_task("", total=plan.updates)

        def advance(what: str, updates: int) -> None:
            bar.update(task, advance=updates, description=what)

        measured = study(plan, advance)
    measured.seconds = time.perf_counter() - began
    notes().print(f"Measured in {measured.seconds:.0f} s.", style="dim")
    return measured
