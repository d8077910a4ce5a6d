"""What ``--help`` prints: plain lines that fit 80 columns, by any version of Typer."""

from __future__ import annotations

import textwrap
from typing import Any

from typer.core import TyperCommand, TyperGroup

__all__ = ["Command", "Group"]


class Plain:
    """Options and arguments in two columns: the name with what it takes, and what it is for.

    ``ctx``, ``formatter`` and the parameters are Click's, which Typer brings under a name of its
    own.
    """

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return what the line of usage names after the command."""
        own: Any = self
        arguments = [str(p.metavar) for p in own.get_params(ctx) if not _is_option(p)]
        commands = [own.subcommand_metavar] if isinstance(self, TyperGroup) else []
        return ["[OPTIONS]", *arguments, *commands]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments and options, and a group's commands below."""
        own: Any = self
        parameters = own.get_params(ctx)
        for title, wanted in (("Arguments", False), ("Options", True)):
            rows = [_row(p) for p in parameters if _is_option(p) == wanted]
            if rows:
                with formatter.section(title):
                    _write(formatter, rows)
        if isinstance(self, TyperGroup):
            with formatter.section("Commands"):
                _write(formatter, [(n, _first(c.help)) for n, c in self.commands.items()])


class Command(Plain, TyperCommand):
    """A command whose help is plain."""


class Group(Plain, TyperGroup):
    """The command of commands, whose help is plain."""


def _write(formatter: Any, rows: list[tuple[str, str]]) -> None:
    """Write two columns; a name is never broken at its hyphen, so that it can be copied."""
    first = min(max(len(name) for name, _ in rows), 30) + 2
    for name, text in rows:
        wide = formatter.width - formatter.current_indent - first
        lines = textwrap.wrap(text, max(wide, 20), break_on_hyphens=False) or [""]
        if len(name) > first - 2:
            lines, name = ["", *lines], f"{name}"
        for i, line in enumerate(lines):
            start = name if i == 0 else ""
            row = f"{' ' * formatter.current_indent}{start:<{first}}{line}".rstrip()
            formatter.write(f"{row}\n")


def _is_option(parameter: Any) -> bool:
    return parameter.param_type_name == "option"


def _row(parameter: Any) -> tuple[str, str]:
    """Return a parameter's name with what it takes, and what it is for with its default."""
    if not _is_option(parameter):
        return str(parameter.metavar), parameter.help or ""
    flag = parameter.is_flag
    name = ", ".join(parameter.opts) + ("" if flag else f" {parameter.metavar}")
    said = parameter.show_default if isinstance(parameter.show_default, str) else parameter.default
    if parameter.required:
        return name, f"{parameter.help}  [required]"
    if flag or said is None or said == "":
        return name, parameter.help or ""
    return name, f"{parameter.help}  [default: {said}]"


def _first(text: str | None) -> str:
    """Return a command's first paragraph."""
    return (text or "").split("\n\n")[0]
