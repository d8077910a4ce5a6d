"""Docstrings, made ready for Markdown as griffe reads them."""

from __future__ import annotations

import re

import griffe

NAME = re.compile(r"(?<![`\[])`(?:throughtime\.|tt\.)?([A-Za-z_][\w.]*)(\(\))?`(?![`\]])")


class Docstrings(griffe.Extension):
    """Turn ``::`` before a literal block into Markdown, and names in backticks into links."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: object) -> None:
        """Go through every docstring of the package, once all of it is read."""
        import public

        self.visit(pkg, public.has_page)

    def visit(self, thing: griffe.Object, has_page) -> None:
        """Rewrite the docstring of an object and of what it holds."""
        if thing.docstring:
            text = re.sub(r"(?<=\S)::$", ":", thing.docstring.value, flags=re.MULTILINE)
            text = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)
            thing.docstring.value = prose(text, lambda m: linked(thing, m, has_page))
        for member in thing.members.values():
            if not member.is_alias:
                self.visit(member, has_page)


def prose(text: str, replace) -> str:
    """Apply a replacement to the lines of a docstring that are not an example."""
    return "\n".join(
        line if line.lstrip().startswith((">>>", "...")) else NAME.sub(replace, line)
        for line in text.split("\n")
    )


def linked(thing: griffe.Object, match: re.Match[str], has_page) -> str:
    """Return a link to the object that a name in backticks means here, or the name as it is."""
    for name in (match[1], f"throughtime.{match[1]}"):
        try:
            path = thing.resolve(name) if "." not in name else resolved(thing, name)
        except (griffe.NameResolutionError, KeyError, AttributeError):
            continue
        if path and has_page(path) and path != thing.path:
            return f"[{match[0]}][{path}]"
    return match[0]


def resolved(thing: griffe.Object, name: str) -> str:
    """Return what a dotted name leads to: the first part as seen from here, then its members."""
    import public

    first, _, rest = name.partition(".")
    start = first if first == public.PACKAGE else thing.resolve(first)
    found = public.package()
    for part in f"{start}.{rest}".split(".")[1:]:
        found = found[part]
        if found.is_alias:
            found = found.final_target
    return found.path
