"""What the package exports, read from its sources without importing it."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import griffe

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "throughtime"
# Rooms that export nothing to a user, and names that moved.
LEFT_OUT = {"__main__", "bench", "cli", "node", "renamed", "schedule"}


@cache
def package() -> griffe.Module:
    """Return the package as griffe reads it, imports followed."""
    loader = griffe.GriffeLoader(search_paths=[str(ROOT / "src")])
    loader.load(PACKAGE)
    loader.resolve_aliases(implicit=False, external=False)
    return loader.modules_collection[PACKAGE]


def exported(module: griffe.Module) -> list[str]:
    """Return a module's names in ``__all__`` that are no modules themselves."""
    names = [str(name) for name in module.exports or ()]
    found = [name for name in names if name in module.members and not is_module(module[name])]
    return sorted(found, key=lambda name: (not name[0].isupper(), name.lower()))


def is_module(thing: griffe.Object | griffe.Alias) -> bool:
    """Whether a name stands for a module."""
    return canonical(thing) in modules()


def canonical(thing: griffe.Object | griffe.Alias) -> str:
    """Return where a name is defined; through imports that griffe could not follow, as told."""
    return thing.target_path if thing.is_alias else thing.path


@cache
def modules() -> dict[str, griffe.Module]:
    """Return every module of the package by its path, from the top down."""
    found: dict[str, griffe.Module] = {}

    def walk(module: griffe.Module) -> None:
        found[module.path] = module
        for _, child in sorted(module.modules.items()):
            if not child.is_alias and child.name not in LEFT_OUT:
                walk(child)

    walk(package())
    return found


@cache
def pages() -> dict[str, list[tuple[str, str]]]:
    """Return the pages of the reference: the module, and each name with where it is defined.

    The package itself, its rooms, and of the modules in a room those that documents import from.
    """
    found, told = {}, imported()
    for path, module in modules().items():
        if module.exports and (path.count(".") < 2 or path in told):
            names = exported(module)
            found[path] = [(name, final(module[name])) for name in names]
    return {path: names for path, names in found.items() if names}


@cache
def imported() -> set[str]:
    """Return the modules that the documents and examples import names from."""
    files = (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*.py"))
    texts = "\n".join(file.read_text(encoding="utf-8") for file in files)
    found = re.findall(rf"from ({PACKAGE}[\w.]*) import (\w+)", texts)
    return {path for whole, name in found for path in (whole, f"{whole}.{name}")}


def final(thing: griffe.Object | griffe.Alias) -> str:
    """Return the path of what a name stands for in the end."""
    try:
        return thing.final_target.path if thing.is_alias else thing.path
    except (griffe.AliasResolutionError, griffe.CyclicAliasError):
        return canonical(thing)


@cache
def documented() -> dict[str, str]:
    """Return the page on which each defined object is documented: the first that exports it."""
    found: dict[str, str] = {}
    for page, names in pages().items():
        for _, path in names:
            found.setdefault(path, page)
    return found


def has_page(path: str) -> bool:
    """Whether an object has an anchor: an exported one, or what such a class documents."""
    owner, _, name = path.rpartition(".")
    if path in documented():
        return True
    if owner not in documented() or name.startswith("_"):
        return False
    members = package()[owner.partition(".")[2]].members
    return name in members and members[name].docstring is not None


def inherited(path: str) -> str | None:
    """Return the anchor of a member that a class of the package itself inherits, where it has one.

    Elsewhere a member is documented with the class that defines it.
    """
    owner, _, name = path.rpartition(".")
    if documented().get(owner) != PACKAGE or name.startswith("_"):
        return None
    thing = package()[owner.partition(".")[2]]
    known = thing.is_class and name in thing.inherited_members
    return f"{PACKAGE}.{thing.name}.{name}" if known else None
