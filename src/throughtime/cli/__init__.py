"""The command `throughtime`: one file per command, one row for each here."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import NamedTuple

import typer

from ..errors import NonFiniteError, ThroughTimeError

__all__ = ["COMMANDS", "app", "main"]


class Command(NamedTuple):
    """A command: the function of its name in the module of its name, whose docstring is its help.

    Attributes:
        name: of command, module and function.
        optional: whether it may be absent.
    """

    name: str
    optional: bool = False


COMMANDS = (
    Command("demo"),
    Command("train"),
    Command("profile"),
    Command("check"),
    Command("treat"),
    Command("replay"),
    Command("watch"),
    Command("bench", optional=True),
)


def app() -> typer.Typer:
    """Build the command with all its rows."""
    root = typer.Typer(
        name="throughtime",
        help="The gradient's way back through time: trained, taken apart, judged, drawn.",
        epilog="Exit codes: 0 done; 1 a check failed, such as a gradient that is not finite; "
        "2 usage or bad input.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
    )
    root.callback()(_options)
    for name, optional in COMMANDS:
        if optional and find_spec(f"{__name__}.{name}") is None:
            continue
        command = getattr(import_module(f".{name}", __name__), name)
        root.command(name, help=_help(command))(command)
    return root


def _help(command: Callable[..., None]) -> str:
    """Return a command's docstring up to its sections, one line a paragraph."""
    text = inspect.cleandoc(command.__doc__ or "").split("\n\nRaises:")[0]
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def _options(
    version: bool = typer.Option(False, "--version", help="Say which version this is, and end."),
) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"throughtime {installed('throughtime')}")
        raise typer.Exit()


def main() -> None:
    """Run the command; an error of the package's own is one line, and an exit code."""
    try:
        app()()
    except NonFiniteError as error:
        sys.exit(_say(error, 1))
    except ThroughTimeError as error:
        sys.exit(_say(error, 2))


def _say(error: ThroughTimeError, code: int) -> int:
    print(f"throughtime: {error}", file=sys.stderr)
    return code
