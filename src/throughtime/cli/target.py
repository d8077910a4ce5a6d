"""What FILE.py:FUNCTION names: a user's own model, batch and losses, by one protocol."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from ..errors import InputTypeError, InputValueError, ThroughTimeError
from ..flow import Flow, trace
from .user_code import check_defines

__all__ = ["beside", "called", "flow_of", "function_of", "returned"]

PROTOCOL = (
    "it must return (model, batch, losses) or (model, batch, losses, words): an nn.Module, "
    "anything, and a function losses(model, batch) that returns a 1-D tensor, one loss per step"
)
# What was run last of each file, for `beside`.
_LOADED: dict[Path, ModuleType] = {}


def function_of(target: str) -> Callable[[], Any]:
    """Load FILE.py and return its FUNCTION.

    Args:
        target: "FILE.py:FUNCTION".

    Raises:
        InputValueError: it is not of that form, or the file cannot be loaded or has no such name,
            which is seen before the file is run.
        FileError: there is no such file.
        InputTypeError: that is no function, or one that needs arguments.
    """
    file, colon, name = target.rpartition(":")
    if not colon or not file or not name:
        raise InputValueError(f"give FILE.py:FUNCTION, such as model.py:build; got {target!r}.")
    path = Path(file)
    check_defines(path, name)
    module = _loaded(path)
    _LOADED[path] = module
    return _named(module, name, path)


def beside(target: str, name: str) -> Callable[..., Any]:
    """Return another function of a file that `function_of` has loaded.

    Args:
        target: "FILE.py:FUNCTION", as it was given to `function_of`.
        name: of the other one.

    Raises:
        InputValueError: the file has no such name.
        InputTypeError: that is no function.
    """
    path = Path(target.rpartition(":")[0])
    return _named(_LOADED[path], name, path)


def _named(module: ModuleType, name: str, path: Path) -> Callable[..., Any]:
    if not hasattr(module, name):
        found = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        has = ", ".join(found) or "no function"
        raise InputValueError(f"{path} has no {name} once it has been run; it has {has}.")
    function = getattr(module, name)
    if not callable(function):
        raise InputTypeError(f"{name} in {path} is {type(function).__name__}, not a function.")
    return function


def _loaded(path: Path) -> ModuleType:
    """Run a file as a module of its own; what it prints goes to stderr.

    Raises:
        InputValueError: it raised something.
    """
    # Not in the place of a library that happens to have the file's name.
    name = f"_{path.stem}_given" if path.stem in sys.modules else path.stem
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # its name ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        with contextlib.redirect_stdout(sys.stderr):
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise InputValueError(f"{path} cannot be loaded: {_where(error)}") from error
    return module


def returned(
    function: Callable[[], Any], target: str, seed: int
) -> tuple[nn.Module, Any, Callable[..., Any], list[str] | None]:
    """Call FUNCTION and check what it returned.

    Args:
        function: what `function_of` returned.
        target: how it was named.
        seed: of torch, set before.

    Raises:
        InputTypeError: it returned something else than the protocol says.
    """
    torch.manual_seed(seed)
    given = called(function, target)
    if not isinstance(given, (tuple, list)) or len(given) not in {3, 4}:
        shape = f" of {len(given)}" if isinstance(given, (tuple, list)) else ""
        raise InputTypeError(f"{target} returned {type(given).__name__}{shape}; {PROTOCOL}.")
    model, batch, losses, *rest = given
    if not isinstance(model, nn.Module):
        raise InputTypeError(
            f"the first that {target} returned is {type(model).__name__}; {PROTOCOL}."
        )
    if not callable(losses):
        raise InputTypeError(
            f"the third that {target} returned is {type(losses).__name__}, not a function; "
            f"{PROTOCOL}."
        )
    words = rest[0] if rest else None
    if isinstance(words, str) or not isinstance(words, Iterable | None):
        raise InputTypeError(
            f"the fourth that {target} returned is {type(words).__name__}, not a list "
            "of words, one a step."
        )
    return model, batch, losses, None if words is None else [str(word) for word in words]


def flow_of(
    model: nn.Module,
    batch: Any,
    losses: Callable[..., Any],
    window: int | None,
    every: int | None,
    target: str,
) -> Flow:
    """Run the losses inside a trace and return the flow.

    Args:
        model: what FUNCTION returned.
        batch: likewise.
        losses: likewise.
        window: follow each loss at most so many steps back.
        every: of so many losses follow one only.
        target: how FUNCTION was named.
    """
    with trace(model) as watched:
        values = called(lambda: losses(model, batch), f"losses of {target}")
    return watched.flow(values, window=window, every=every)


def called(function: Callable[[], Any], what: str) -> Any:
    """Call the user's code; what it raises becomes one line that says where.

    Args:
        function: the code.
        what: its name, for the message.

    Raises:
        ThroughTimeError: what the code raised of this package's own.
        InputValueError: anything else that it raised.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for what the command found
            return function()
    except ThroughTimeError:
        raise
    except (Exception, SystemExit) as error:
        raise InputValueError(f"{what} raised {_where(error)}") from error


def _where(error: BaseException) -> str:
    """Return an error's kind and text in one line, with the innermost line of the user's code."""
    text = f"{type(error).__name__}: {error}".splitlines()[0]
    package = str(Path(__file__).parents[1])
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((package, "<")) and "site-packages" not in frame.filename
    ]
    return (
        f"{text} ({Path(frames[-1].filename).name}, line {frames[-1].lineno})." if frames else text
    )
