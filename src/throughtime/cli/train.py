"""`throughtime train`: a character model on a user's text."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from ..diagnosis import diagnose
from ..errors import CheckpointError, FileError, InputValueError, NonFiniteError
from ..files import check_writable
from ..report import table, write_report
from ..tasks import CharText, read_text
from ..train import Language, Settings
from ..train.checkpoint import load, save
from ..train.language import CONTENT
from .options import with_options
from .profile import layers_json
from .terminal import notes, print_json, progress, results

__all__ = ["train"]


class Cell(str, Enum):
    """The cells that a character model may have."""

    rnn = "rnn"
    gru = "gru"
    lstm = "lstm"


@dataclass(frozen=True)
class Options:
    """The options of `train`; a setting that is None keeps its default, or the checkpoint's."""

    text: Annotated[Path, typer.Option(help="A text file, UTF-8.")]
    cell: Annotated[Cell | None, typer.Option(help="The recurrent cell.", show_default="lstm")] = (
        None
    )
    updates: Annotated[int, typer.Option(help="Updates in all.", min=1)] = 2000
    hidden: Annotated[int | None, typer.Option(help="Hidden units.", show_default="128")] = None
    layers: Annotated[int | None, typer.Option(help="Layers.", show_default="1")] = None
    window: Annotated[
        int | None, typer.Option(help="Characters the gradient goes back.", show_default="64")
    ] = None
    rows: Annotated[int | None, typer.Option(help="Streams side by side.", show_default="32")] = (
        None
    )
    rate: Annotated[float | None, typer.Option(help="Learning rate.", show_default="0.003")] = None
    clip: Annotated[
        float | None, typer.Option(help="Clip the gradient's norm; 0 for none.", show_default="1")
    ] = None
    seed: Annotated[int | None, typer.Option(help="Of weights and samples.", show_default="0")] = (
        None
    )
    every: Annotated[int, typer.Option(help="Updates between checkpoints.", min=1)] = 200
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Where the training is kept.", show_default="checkpoints/TEXT-CELL.pt"),
    ] = None
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoint, with its settings.")
    ] = False
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Begin anew where there is a checkpoint.")
    ] = False
    report: Annotated[Path, typer.Option(help="The flow report to write.")] = Path(
        "throughtime-train.html"
    )
    sample: Annotated[int, typer.Option(help="Characters to write at the end.", min=0)] = 300
    prompt: Annotated[str, typer.Option(help="What the sample begins with.")] = ""
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False

    def settings(self) -> dict[str, Any]:
        """Return the settings that were given, by the names that `Settings` has for them."""
        known = {field.name for field in fields(Settings)}
        given = {n: v for n, v in vars(self).items() if n in known and v is not None}
        return given | ({} if self.cell is None else {"cell": self.cell.value})


@with_options(Options)
def train(options: Options) -> None:
    """Train a character model on a text: loss, sample, checkpoints, and a flow report at the end.

    The state is carried from segment to segment; the gradient goes back over one. A loss or a
    gradient that turns inf or NaN ends the run with exit code 1, keeps the last good checkpoint,
    and says where it began.
    """
    check_writable(options.report)
    training, path = _prepare(read_text(options.text), options)
    _train(training, options.updates, options.every, path)
    written = training.sample(options.sample, options.prompt)
    flow, characters = training.flow()
    diagnosis = diagnose(flow)
    write_report(
        flow,
        options.report,
        diagnosis=diagnosis,
        words=characters,
        title=f"A {training.settings.cell} that reads {options.text.name}",
    )
    if options.as_json:
        done = {**_done(training), "sample": written}
        done |= {"checkpoint": str(path), "report": str(options.report)}
        print_json({**done, "layers": layers_json(flow, diagnosis)})
        return
    console = results()
    _, loss, held_out = training.history[-1] if training.history else (0, math.nan, math.nan)
    console.print(
        f"{training.updates} updates: training {loss:.3f}, validation [bold]{held_out:.3f}[/bold] "
        f"nats per character ({held_out / math.log(2):.3f} bits).\n"
    )
    if options.sample:
        console.print((options.prompt + written).strip("\n"), markup=False)
        console.print()
    console.print(table(flow, diagnosis))
    console.print(f"\nCheckpoint: {path}\nReport: [bold]{options.report}[/bold]")


def _done(training: Language) -> dict[str, Any]:
    """Return what was trained, and how it went, as plain values."""
    columns = ("updates", "loss", "validation_loss")
    return {
        "settings": asdict(training.settings),
        "updates": training.updates,
        "history": [dict(zip(columns, row, strict=True)) for row in training.history],
    }


def _prepare(content: str, options: Options) -> tuple[Language, Path]:
    """Build the training, new or from its checkpoint; everything that can be refused is, here."""
    resume, given = options.resume, options.settings()
    if resume and options.overwrite:
        raise InputValueError("--resume goes on and --overwrite begins anew; give one of them.")
    name = f"{options.text.stem}-{given.get('cell', 'lstm')}.pt"
    path = options.checkpoint or Path("checkpoints") / name
    kept: dict[str, Any] | None = None
    if resume:
        kept = load(path, CONTENT)
        given = {**_known(kept["settings"], path), **given}
    elif path.exists() and not options.overwrite:
        raise FileError(
            f"there is a checkpoint {path} already; go on from it with --resume, or begin anew "
            "with --overwrite."
        )
    _check_folder(path, default=options.checkpoint is None)
    settings = Settings(**given)
    stream = CharText(
        content,
        window=settings.window,
        rows=settings.rows,
        vocabulary=kept["vocabulary"] if kept else None,
    )
    training = Language(stream, settings)
    if kept:
        training.restore(kept, str(path))
    return training, path


def _known(settings: dict[str, Any], path: Path) -> dict[str, Any]:
    if settings.keys() != asdict(Settings()).keys():
        raise CheckpointError(f"{path} has other settings than this version; nothing was loaded.")
    return settings


def _check_folder(path: Path, default: bool) -> None:
    if default:
        try:
            path.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise FileError(
                f"cannot make the folder {path.parent}: {error.strerror}; say --checkpoint FILE."
            ) from error
    check_writable(path)


def _train(training: Language, updates: int, every: int, path: Path) -> None:
    """Train with a progress bar, saving at each look."""
    saved = training.updates
    with progress("updates") as bar:
        task = bar.add_task("", total=updates, completed=training.updates)

        def advance(done: int, loss: float) -> None:
            bar.update(task, completed=done, description=f"loss {loss:.3f}")

        def look(row: list[float]) -> None:
            nonlocal saved
            save(training.content(), path)
            saved = training.updates
            bar.console.print(
                f"{row[0]:>7.0f}  training {row[1]:.3f}  validation {row[2]:.3f}", style="dim"
            )

        try:
            training.run(updates, every, advance, look)
        except NonFiniteError as error:
            last = (
                f"The last good checkpoint, of update {saved}, is {path}."
                if saved
                else "No checkpoint had been written."
            )
            raise NonFiniteError(f"{error} {last} Lower --rate, or --clip.") from error
        except KeyboardInterrupt:
            notes().print(f"Stopped; the checkpoint {path} is of update {saved}.")
            raise
