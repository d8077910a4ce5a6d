"""The line "Bases:" of a class: one that has no page is replaced by what it is itself based on."""

from __future__ import annotations

import re

import griffe
import public

LINE = re.compile(r'<p class="doc doc-class-bases">\s*Bases: (.*?)</p>\n?', re.DOTALL)
CODE = re.compile(r"<code>.*?</code>", re.DOTALL)
BASE = re.compile(
    rf'<code><autoref identifier="({public.PACKAGE}\.[\w.]+)"[^>]*>\w+</autoref></code>'
)


def outside(path: str) -> list[str]:
    """Return the classes to name in the place of one: itself, where it has a page."""
    if not path.startswith(f"{public.PACKAGE}.") or public.has_page(path):
        return [path]
    thing = public.package()[path.partition(".")[2]]
    bases = thing.bases if isinstance(thing, griffe.Class) else []
    named = [base if isinstance(base, str) else base.canonical_path for base in bases]
    return [known for base in named for known in outside(base)]


def code(path: str) -> str:
    """Return a class's name, which leads to its page where it has one."""
    name = path.rpartition(".")[2]
    return f'<code><autoref identifier="{path}" optional hover>{name}</autoref></code>'


def line(match: re.Match[str]) -> str:
    """Return the line with those bases; none where nothing is left of it."""
    found: list[str] = []
    for one in CODE.findall(match[1]):
        base = BASE.fullmatch(one)
        found += map(code, outside(base[1])) if base else [one]
    told = ", ".join(dict.fromkeys(found))
    return f'<p class="doc doc-class-bases">Bases: {told}</p>\n' if told else ""


def on_page_content(html: str, *, page, config, files) -> str:
    """Go through the classes of a page of the reference."""
    return LINE.sub(line, html) if page.file.src_uri.startswith("reference/") else html
