"""Names in the documents' running text, such as `LayerFlow.bound` or `tt.stream`: links to them."""

from __future__ import annotations

import re
from functools import cache
from html import unescape

import public

LEFT_ALONE = r"a|autoref|pre|h\d"
CODE = re.compile(rf"(<(?:{LEFT_ALONE})\b.*?</(?:{LEFT_ALONE})>)|<code>([^<\n]+)</code>", re.DOTALL)
NAME = re.compile(r"(?:(tt|throughtime)\.)?([A-Za-z_]\w*(?:\.\w+)*)(?:\(.*\))?")


@cache
def known() -> dict[str, str]:
    """Return the objects that a reader may mean, by the names under which they are known."""
    found: dict[str, str] = {}
    for module, names in public.pages().items():
        room = module.removeprefix(public.PACKAGE).lstrip(".")
        for name, path in names:
            found.setdefault(f"{room}.{name}" if room else name, path)
    for names in public.pages().values():
        for name, path in names:
            if name[0].isupper():  # of a class, its own name is enough
                found.setdefault(name, path)
    return found


def meant(text: str) -> str | None:
    """Return the object that a piece of code in a sentence names, if it names one.

    A word by itself may be anything, so it has to be a class's member, or to say where it is from.
    """
    match = NAME.fullmatch(unescape(text))
    if match is None or not (match[1] or "." in match[2]):
        return None
    name, _, member = match[2].rpartition(".")
    if match[2] in known():
        return known()[match[2]]
    path = f"{known()[name]}.{member}" if name in known() else ""
    return path if public.has_page(path) else public.inherited(path)


def on_page_content(html: str, *, page, config, files) -> str:
    """Make such names links; those of the reference are links already."""
    if page.file.src_uri.startswith("reference/"):
        return html

    def replace(match: re.Match[str]) -> str:
        path = meant(match[2]) if match[2] else None
        link = f'<autoref identifier="{path}"><code>{match[2]}</code></autoref>'
        return link if path else match[0]

    return CODE.sub(replace, html)
