"""The command `throughtime`: one file per command, one row for each here."""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Annotated, Any, NamedTuple

import typer

from .. import __version__
from ..errors import NonFiniteError, ThroughTimeError
from .help_text import Command as Plain
from .help_text import Group

__all__ = ["COMMANDS", "app", "main"]


# What Typer raises of a wrong option; it brings it under a private name.
USAGE: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "UsageError")


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
    Command("explore"),
    Command("bench", optional=True),
)


def app() -> typer.Typer:
    """Build the command with all its rows."""
    root = typer.Typer(
        name="throughtime",
        cls=Group,
        help="How far back your recurrent network can learn, and why it stops there.",
        epilog="Exit codes: 0 done; 1 a check failed, such as a gradient that is not finite; "
        "2 usage or bad input.",
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    root.callback(invoke_without_command=True)(_options)
    for name, optional in COMMANDS:
        if optional and find_spec(f"{__name__}.{name}") is None:
            continue
        command = getattr(import_module(f".{name}", __name__), name)
        root.command(name, cls=Plain, help=_help(command))(command)
    return root


def _help(command: Callable[..., None]) -> str:
    """Return a command's docstring up to its sections, one line a paragraph."""
    text = inspect.cleandoc(command.__doc__ or "").split("\n\nRaises:")[0]
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def _options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit()
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main() -> None:
    """Run the command; an error of the package's own is one line, and an exit code."""
    try:
        code = _run()
        sys.stdout.flush()
    except OSError as error:  # stdout is a full disk, or a pipe that nobody reads any more
        code = _say(f"cannot write what was found: {error.strerror or error}.", 2)
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python flushes once more at its end
    sys.exit(code)


def _run() -> int:
    """Run the command and return its exit code."""
    try:
        return app()(prog_name="throughtime", standalone_mode=False) or 0
    except SystemExit as ended:
        return int(ended.code or 0)
    except USAGE as error:
        where = error.ctx.command_path if error.ctx else "throughtime"
        said = error.format_message()
        return _say(f"{said}{'' if said[-1] in '.?' else '.'} See {where} --help.", 2)
    except NonFiniteError as error:
        return _say(error, 1)
    except ThroughTimeError as error:
        return _say(error, 2)


def _say(error: object, code: int) -> int:
    print(f"throughtime: {error}", file=sys.stderr)
    return code
