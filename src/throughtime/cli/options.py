"""Options that several commands have, and a command whose options are a dataclass's fields."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, TypeVar, get_type_hints

import typer

__all__ = ["Lag", "Seed", "Target", "with_options"]

Target = Annotated[
    str, typer.Argument(metavar="FILE.py:FUNCTION", help="The function that returns the model.")
]
Lag = Annotated[
    int | None, typer.Option(help="How many steps back the task needs.", min=1, metavar="N")
]
Seed = Annotated[int, typer.Option(help="Set before FUNCTION is called.", min=0, metavar="N")]

T = TypeVar("T")


def with_options(kind: type[T]) -> Callable[[Callable[[T], None]], Callable[..., None]]:
    """Make a command of a function of one record: Typer sees the record's fields.

    Args:
        kind: a dataclass; its fields are annotated as a command's parameters are.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass
        ... class Options:
        ...     updates: int = 2000
        >>> @with_options(Options)
        ... def train(options):
        ...     print(options.updates)
        >>> train(updates=3)
        3
        >>> list(inspect.signature(train).parameters)
        ['updates']
    """
    hints = get_type_hints(kind, include_extras=True)
    fields = inspect.signature(kind)
    parameters = [p.replace(annotation=hints[name]) for name, p in fields.parameters.items()]

    def decorate(function: Callable[[T], None]) -> Callable[..., None]:
        def command(**given: object) -> None:
            function(kind(**given))

        command.__name__, command.__doc__ = function.__name__, function.__doc__
        command.__module__ = function.__module__
        signature = inspect.Signature(parameters, return_annotation=None)
        command.__signature__ = signature  # pyright: ignore[reportFunctionMemberAccess]
        return command

    return decorate
