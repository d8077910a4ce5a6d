"""`throughtime train`: a character model on a user's text."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import CheckpointError, FileError, InputValueError, NonFiniteError
from ..files import check_writable
from ..packages import need_plotly
from ..tasks import CharText, read_text
from ..train import Language, Settings
from ..train.checkpoint import load, save
from ..train.language import CONTENT
from .ending import Ending
from .options import with_options
from .stopping import Stop
from .terminal import notes, print_json, progress

__all__ = ["train"]


class Cell(str, Enum):
    """The cells that a character model may have."""

    rnn = "rnn"
    gru = "gru"
    lstm = "lstm"


def _setting(what: str, default: str, metavar: str = "N") -> Any:
    """Return an option that a checkpoint may know better than its default."""
    return typer.Option(help=what, metavar=metavar, show_default=default)


@dataclass(frozen=True)
class Options:
    """The options of `train`; a setting that is None keeps its default, or the checkpoint's."""

    text: Annotated[Path, typer.Option(help="A text file, UTF-8.", metavar="FILE")]
    cell: Annotated[
        Cell | None,
        typer.Option(help="The recurrent cell.", metavar="rnn|gru|lstm", show_default="lstm"),
    ] = None
    updates: Annotated[int, typer.Option(help="Updates in all.", min=1, metavar="N")] = 2000
    hidden: Annotated[int | None, _setting("Hidden units.", "128")] = None
    layers: Annotated[int | None, _setting("Layers.", "1")] = None
    window: Annotated[int | None, _setting("Characters the gradient goes back.", "64")] = None
    rows: Annotated[int | None, _setting("Streams side by side.", "32")] = None
    rate: Annotated[float | None, _setting("Learning rate.", "0.003", "X")] = None
    clip: Annotated[float | None, _setting("Most of the gradient's norm; 0: any.", "1", "X")] = None
    longest: Annotated[
        int | None, _setting("Begin with gate biases for lags up to N; 0: as torch does.", "0")
    ] = None
    seed: Annotated[int | None, _setting("Of weights and samples.", "0")] = None
    every: Annotated[int, typer.Option(help="Updates between checkpoints.", min=1, metavar="N")] = (
        200
    )
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="Where the training is kept.",
            metavar="FILE",
            show_default="checkpoints/TEXT-CELL.pt",
        ),
    ] = None
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoint, with its settings.")
    ] = False
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Begin anew where there is a checkpoint.")
    ] = False
    report: Annotated[Path, typer.Option(help="The page to write.", metavar="FILE")] = Path(
        "throughtime-train.html"
    )
    sample: Annotated[
        int, typer.Option(help="Characters to write at the end.", min=0, metavar="N")
    ] = 300
    prompt: Annotated[str, typer.Option(help="What the sample begins with.", metavar="TEXT")] = ""
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False

    def settings(self) -> dict[str, Any]:
        """Return the settings that were given, by the names that `Settings` has for them."""
        known = {field.name for field in fields(Settings)}
        given = {n: v for n, v in vars(self).items() if n in known and v is not None}
        return given | ({} if self.cell is None else {"cell": self.cell.value})


@with_options(Options)
def train(options: Options) -> None:
    """Train a character model on a text, and say how far back it learns and what to try next.

    Writes checkpoints, and at the end a sample and a report on the gradient. The state is carried
    from segment to segment; the gradient goes back over one. A loss or a gradient that turns inf or
    NaN ends the run with exit code 1, keeps the last good checkpoint, and says where it began.

    Ctrl-C (exit code 130) and SIGTERM (exit code 0) finish the update at hand and write a
    checkpoint to --resume from.

    For example: throughtime train --text book.txt --cell gru --updates 500
    """
    with Stop() as stop:
        need_plotly()
        check_writable(options.report)
        training, path = _prepare(read_text(options.text), options)
        _train(training, options, path, stop)
        stop.kept()
        written = "" if stop() else training.sample(options.sample, options.prompt)
        _end(training, options, path, written, stop)
    raise typer.Exit(stop.code if stop() else 0)


def _end(training: Language, options: Options, path: Path, written: str, stop: Stop) -> None:
    """Say how the training went and what to try next, and write the page unless stopped."""
    ending = Ending(training, options.text, path, options.updates, written, stop.name)
    failed: FileError | None = None
    if not stop():
        try:
            ending.write(options.report)
        except FileError as error:  # what was trained is told all the same
            failed = error
    if options.as_json:
        print_json(ending.to_dict())
    else:
        ending.show(options.prompt)
    if failed is not None:
        raise failed


def _prepare(content: str, options: Options) -> tuple[Language, Path]:
    """Build the training, new or from its checkpoint; everything that can be refused is, here."""
    resume, given = options.resume, options.settings()
    if resume and options.overwrite:
        raise InputValueError("--resume goes on and --overwrite begins anew; give one of them.")
    name = f"{options.text.stem}-{given.get('cell', 'lstm')}.pt"
    path = options.checkpoint or Path("checkpoints") / name
    if path.exists() and not path.is_file():
        raise FileError(f"no training can be kept in {path}: it is no file. Give a file's name.")
    if not resume:
        Settings(**given)
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


def _train(training: Language, options: Options, path: Path, stop: Stop) -> None:
    """Train with a progress bar, saving at each look and where it is stopped."""
    saved = training.updates
    with progress("updates") as bar:
        task = bar.add_task("", total=options.updates, completed=training.updates)

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
            training.run(options.updates, options.every, advance, look, stop)
        except NonFiniteError as error:
            last = (
                f"The last good checkpoint, of update {saved}, is {path}."
                if saved
                else "No checkpoint had been written."
            )
            raise NonFiniteError(f"{error} {last} Lower --rate, or --clip.") from error
        except KeyboardInterrupt:
            notes().print(f"Stopped at once; the checkpoint {path} is of update {saved}.")
            raise
    if stop():
        save(training.content(), path)
        notes().print(
            f"Stopped by {stop.name} after update {training.updates}; {path} is of that update.",
            markup=False,
            soft_wrap=True,
        )
