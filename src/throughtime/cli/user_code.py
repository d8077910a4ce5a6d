"""What a file of a user's defines, read before it is run: a script may take hours to its end."""

from __future__ import annotations

import ast
from pathlib import Path

from ..errors import FileError, InputTypeError, InputValueError

__all__ = ["check_defines"]


def check_defines(path: Path, name: str) -> None:
    """Raise where a file surely lacks a function that can be called without arguments.

    Args:
        path: of a Python file.
        name: of the function.

    Raises:
        FileError: there is no such file, or it cannot be read.
        InputValueError: it is no Python, or defines no such name.
        InputTypeError: what it defines needs arguments.
    """
    tree = _parsed(path)
    names = {n for node in ast.walk(tree) for n in _bound(node)}
    if name not in names and "*" not in names and "globals" not in names:
        found = [n.name for n in tree.body if isinstance(n, ast.FunctionDef) and n.name[0] != "_"]
        raise InputValueError(
            f"{path} has no {name}; it has {', '.join(found) or 'no function at all'}."
        )
    made = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    needed = _needed(made[-1]) if made and not made[-1].decorator_list else []
    if needed:
        raise InputTypeError(
            f"{name} in {path} needs {', '.join(needed)}; write a function without arguments that "
            f"calls it."
        )


def _parsed(path: Path) -> ast.Module:
    if path.is_dir():
        raise FileError(f"{path} is a folder; give a Python file.")
    if not path.exists():
        raise FileError(f"there is no file {path}.")
    if path.suffix != ".py":
        raise FileError(f"{path} is no Python file; its name must end in .py.")
    try:
        return ast.parse(path.read_bytes(), filename=str(path))
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}.") from error
    except SyntaxError as error:
        line = f" (line {error.lineno})" if error.lineno else ""
        raise InputValueError(
            f"{path} cannot be loaded: {type(error).__name__}: {error.msg}{line}."
        ) from error
    except ValueError as error:
        raise InputValueError(f"{path} cannot be loaded: {error}.") from error


def _bound(node: ast.AST) -> list[str]:
    """Return the names that a node may give to the module; "*" or "globals": it could be any."""
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return [node.name]
        case ast.Name():
            return [node.id] if isinstance(node.ctx, ast.Store) or node.id == "globals" else []
        case ast.Import() | ast.ImportFrom():
            return [(alias.asname or alias.name).partition(".")[0] for alias in node.names]
    return []


def _needed(function: ast.FunctionDef) -> list[str]:
    """Return the names of the arguments that a function cannot be called without."""
    given = function.args
    placed = [argument.arg for argument in (*given.posonlyargs, *given.args)]
    named = zip(given.kwonlyargs, given.kw_defaults, strict=True)
    return placed[: len(placed) - len(given.defaults)] + [a.arg for a, d in named if d is None]
