"""The pages of the reference: every public name, on the page of the room that exports it."""

from __future__ import annotations

import public
from mkdocs.structure.files import File, Files

HEAD = """# {module}

{says}
"""
INTRO = """
The names that most programs need are those of [`throughtime`](throughtime.md) itself, imported as
`tt`; the rooms below hold the rest. Every page is made from the docstrings.

| room | holds |
|---|---|
"""
# What most programs use is told whole, with what a class has from those below it.
INHERITED = "    options:\n      inherited_members: true\n"


def says(module: str) -> str:
    """Return the first paragraph of a module's docstring."""
    doc = public.modules()[module].docstring
    return doc.value.partition("\n\n")[0] if doc else ""


def page(module: str) -> str:
    """Return a page of the reference as Markdown."""
    own, others = [], []
    for name, path in public.pages()[module]:
        (own if public.documented()[path] == module else others).append((name, path))
    parts = [HEAD.format(module=module, says=says(module))]
    if others:
        links = ", ".join(f"[`{name}`][{path}]" for name, path in others)
        parts.append(f"Also here: {links}.\n")
    more = INHERITED if module == public.PACKAGE else ""
    parts += [f"::: {module}.{name}\n{more}" for name, _ in own]
    return "\n".join(parts)


def index() -> str:
    """Return the first page: the rooms, in a sentence each."""
    rows = [
        f"| [`{module}`]({module}.md) | {' '.join(says(module).split())} |"
        for module in public.pages()
    ]
    return "# Reference\n" + INTRO + "\n".join(rows) + "\n"


def on_config(config):
    """Put the pages of the reference and of the decisions into the navigation."""
    fill(config["nav"], "reference/", ["reference/index.md", *map(entry, public.pages())])
    folder = public.ROOT / "docs" / "decisions"
    decisions = sorted(f"decisions/{file.name}" for file in folder.glob("[0-9]*.md"))
    fill(config["nav"], "decisions/", ["decisions/README.md", *decisions])
    return config


def entry(module: str) -> dict[str, str]:
    """Return a module's entry in the navigation, under a short name."""
    return {module.removeprefix(f"{public.PACKAGE}."): path_of(module)}


def path_of(module: str) -> str:
    """Return the path of a module's page."""
    return f"reference/{module}.md"


def fill(nav: list, folder: str, pages: list) -> None:
    """Replace a folder in the navigation by the pages in it."""
    for entry in nav:
        for title, value in entry.items() if isinstance(entry, dict) else ():
            if value == folder:
                entry[title] = pages
            elif isinstance(value, list):
                fill(value, folder, pages)


def on_files(files: Files, *, config) -> Files:
    """Add the pages of the reference."""
    files.append(File.generated(config, "reference/index.md", content=index()))
    for module in public.pages():
        files.append(File.generated(config, path_of(module), content=page(module)))
    return files
