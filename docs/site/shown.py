"""The gallery's page, and the pages that it leads to, from what docs/site/gallery.py wrote."""

from __future__ import annotations

import json
import os
from html import escape
from pathlib import Path

from mkdocs.structure.files import File, Files

GALLERY = Path(os.environ.get("GALLERY", Path(__file__).resolve().parents[2] / "out" / "gallery"))
# Pages that a command of the package writes, where it has such a command.
PAGES = {
    "demo": (
        "The two sentences",
        "Five networks learn who was said hi to, near and far: the page that `throughtime demo` "
        "writes, here with the small budget of `--quick`.",
    ),
    "explore": (
        "The explorer",
        "The same question in your browser: move a slider and see what arrives at the mention.",
    ),
}
HEAD = """---
hide: [navigation, toc]
---

# Gallery

Each page here is as the package writes it: one file, live, without a network. They are made anew
whenever this site is built, by the code that is folded under each.

"""
CARD = """<div class="{kind}" markdown="1">

### [{title}]({name}.html)

{says}

{more}
</div>

"""


def listed() -> dict:
    """Return what the gallery holds; nothing where it was not made."""
    index = GALLERY / "entries.json"
    return json.loads(index.read_text(encoding="utf-8")) if index.exists() else {}


def page() -> str:
    """Return the gallery's page as Markdown."""
    found = listed()
    cards = [card(name, *PAGES[name], "") for name in found.get("pages", ())]
    for entry in found.get("entries", ()):
        code = f'??? note "The code"\n\n{indented(fenced(entry["code"]))}\n'
        more = f'<a href="{entry["name"]}.html">{entry["figure"]}</a>' if entry["figure"] else ""
        cards.append(
            card(entry["name"], entry["title"], escape(entry["says"]), f"{more}\n\n{code}")
        )
    body = "".join(cards) or "It was not made: `make docs` makes it.\n"
    return f'{HEAD}<div class="cards" markdown="1">\n\n{body}</div>\n'


def card(name: str, title: str, says: str, more: str) -> str:
    """Return one entry."""
    kind = "card" if more else "card wide"
    return CARD.format(kind=kind, name=name, title=title, says=says, more=more)


def fenced(code: str) -> str:
    """Return code as a block."""
    return f"```python\n{code}\n```"


def indented(text: str) -> str:
    """Return text as what is folded."""
    return "\n".join(f"    {line}" if line else "" for line in text.split("\n"))


def on_files(files: Files, *, config) -> Files:
    """Add the gallery and its pages."""
    files.append(File.generated(config, "gallery/index.md", content=page()))
    for file in sorted(GALLERY.glob("*.html")):
        files.append(File.generated(config, f"gallery/{file.name}", abs_src_path=str(file)))
    return files
