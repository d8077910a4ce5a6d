"""`throughtime watch`: a training's lines, shown as they come."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..files import check_writable, write_whole
from ..report.live import live_page
from ..watch import Record
from ..watch.following import Following
from ..watch.sparkline import QUANTITIES, as_blocks, short
from ..watch.training_run import FindingSpan, TrainingRun
from .check import STYLES
from .terminal import notes, print_json, results

__all__ = ["watch"]

# So often the page is written and the terminal drawn, at most.
FASTEST = 0.2
MOST_GONE = 5
NAMED = 24


def watch(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="The file of JSON lines of Monitor(to=PATH).")
    ],
    html: Annotated[
        Path | None,
        typer.Option(help="A page to write that follows the training too.", metavar="FILE"),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Show what is there, and end.")] = False,
    interval: Annotated[
        float, typer.Option(help="Seconds between two looks at the file.", min=FASTEST, metavar="S")
    ] = 1.0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object for each record, or for the run.")
    ] = False,
) -> None:
    """Show a training as its lines come: each layer's horizon and numbers, and what is found.

    The file may still be written, be cut anywhere, begin anew, or not be there yet. Where the
    output is no terminal, each record is one line. Ctrl-C ends it.

    --html writes one self-contained page, whole each time, that loads itself again every few
    seconds and keeps its place; it needs no server, and stays as it was last when this command
    ends.

    For example: throughtime watch runs/first.jsonl --html live.html

    Raises:
        FileError: with --once, there is no such file.
    """
    if html is not None:
        check_writable(html)
    following, run = Following(path), TrainingRun()
    try:
        if once:
            _once(following, run, as_json)
        else:
            _follow(following, run, html, interval, as_json)
    except KeyboardInterrupt:
        pass
    finally:
        if html is not None and run.count:
            write_whole(html, live_page(run, str(path)))


def _once(following: Following, run: TrainingRun, as_json: bool) -> None:
    for record in following.rest():
        run.take(record)
    if as_json:
        print_json(_plain(run, following))
    else:
        results().print(_shown(following, run, results().width))


def _follow(
    following: Following, run: TrainingRun, html: Path | None, interval: float, as_json: bool
) -> None:
    """Look at the file again and again."""
    console = results()
    with ExitStack() as stack:
        live = None
        if console.is_terminal and not as_json:
            live = stack.enter_context(Live(console=console, auto_refresh=False))
        elif not as_json:
            notes().print(
                f"Following {following.path}; Ctrl-C ends it.", markup=False, soft_wrap=True
            )
        for new in _looks(following, interval, quiet=live is not None):
            for record in new:
                run.take(record)
                if as_json:
                    print(record.line().decode(), end="", flush=True)
                elif live is None:
                    print(_line(record), flush=True)
            if live is not None:
                live.update(_shown(following, run, console.width), refresh=True)
            if html is not None and new:
                write_whole(html, live_page(run, str(following.path), every=max(2.0, interval)))


def _looks(following: Following, interval: float, quiet: bool) -> Iterator[list[Record]]:
    """Yield what is new, at every look."""
    told = quiet
    while True:
        new = following.new()
        if not following.there and not told:
            said = f"Waiting for {following.path}, which is not there yet."
            notes().print(said, markup=False, soft_wrap=True)
            told = True
        yield new
        if not new:
            time.sleep(interval)


def _line(record: Record) -> str:
    """Return a record as one line of text."""
    layers: dict[str, list[str]] = {}
    kinds = {name: (word, kind) for name, word, kind in QUANTITIES}
    for name, value in record.values.items():
        layer, _, quantity = name.removeprefix("throughtime/").rpartition("/")
        word, kind = kinds.get(quantity, (quantity, "number"))
        if quantity in ("horizon", "coverage", "growth"):
            layers.setdefault(layer, []).append(f"{word} {short(value, kind)}")
    said = [f"step {record.step}", *(f"{name}: {', '.join(v)}" for name, v in layers.items())]
    loud = [f for f in record.findings if f.severity in ("error", "warning")]
    said += [f"{f.severity}: {f.code}{_in(f.layer)}" for f in loud]
    return "  ".join(said)


def _in(layer: str | None) -> str:
    return f" in {layer}" if layer else ""


def _shown(following: Following, run: TrainingRun, width: int) -> Group:
    """Return the whole view, within a terminal's width."""
    parts: list[Any] = [_head(following, run)]
    if run.last is None:
        return Group(*parts)
    horizons = {layer: q["horizon"].values for layer, q in run.layers.items() if "horizon" in q}
    parts += [Text(), _table(run)]
    parts += _courses("horizon over training", horizons, width, logarithmic=False)
    said = "gradient by lag, lag 0 first; a block less: a tenth"
    parts += _courses(said, run.profile, width, logarithmic=True)
    parts.append(Text())
    parts += [_finding(seen) for seen in run.present] or [Text("nothing found at the last step")]
    for seen in run.gone[:MOST_GONE]:
        text = f"gone: {seen.code}{_in(seen.layer)}, from step {seen.since} to {seen.last}"
        parts.append(Text(text, style="dim"))
    return Group(*parts)


def _head(following: Following, run: TrainingRun) -> Text:
    said = [str(following.path)]
    if run.last is not None:
        said += [f"step {run.last.step}", f"{run.count} records"]
        if run.last.time == run.last.time:
            said.append(f"the last one {_ago(time.time() - run.last.time)}")
    else:
        said.append("no record yet" if following.there else "not there yet: waiting")
    other = []
    if following.skipped:
        lines = "line that is" if following.skipped == 1 else "lines that are"
        other.append(f"\n{following.skipped} {lines} no record")
    if following.begun:
        other.append(f"\nbegun anew {following.begun} time{'s' * (following.begun > 1)}")
    return Text.assemble(("  ·  ".join(said), "bold"), *((one, "dim") for one in other))


def _ago(seconds: float) -> str:
    for size, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {name} ago"
    return f"{max(0.0, seconds):.0f} s ago"


def _table(run: TrainingRun) -> Table:
    """Return each layer's last numbers."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("layer", overflow="fold", max_width=NAMED)
    shown = [row for row in QUANTITIES if any(row[0] in q for q in run.layers.values())]
    for _, word, _ in shown:
        table.add_column(word, justify="right", no_wrap=True)
    for layer, quantities in run.layers.items():
        cells = [short(quantities[n].last, k) if n in quantities else "–" for n, _, k in shown]
        table.add_row(Text(layer or "the model"), *cells)
    return table


def _courses(
    said: str, courses: Mapping[str, Sequence[float]], width: int, *, logarithmic: bool
) -> list[Text]:
    """Return one line of blocks for each layer, below what they are."""
    if not courses:
        return []
    names = min(NAMED, max(map(len, courses)))
    room = max(10, width - names - 2)
    lines = [
        Text(f"{layer[-names:]:<{names}}  {as_blocks(values, room, logarithmic=logarithmic)}")
        for layer, values in courses.items()
    ]
    return [Text(), Text(said, style="dim"), *lines]


def _finding(seen: FindingSpan) -> Text:
    head = (seen.severity, STYLES.get(seen.severity, ""))
    since = f" since step {seen.since}: " if seen.what else f" since step {seen.since}"
    return Text.assemble(head, f": {seen.code}{_in(seen.layer)}{since}", (seen.what, "dim"))


def _plain(run: TrainingRun, following: Following) -> dict[str, Any]:
    return {
        "path": str(following.path),
        "records": run.count,
        "skipped": following.skipped,
        "begun": following.begun,
        "cut": following.cut,
        "step": None if run.last is None else run.last.step,
        "layers": {
            name: {quantity: series.last for quantity, series in quantities.items()}
            for name, quantities in run.layers.items()
        },
        "findings": [vars(seen) for seen in run.present],
        "gone": [vars(seen) for seen in run.gone],
    }
