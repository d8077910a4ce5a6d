"""Check the links of the built site.

python docs/site/check.py FOLDER

Every link between its pages must lead to a file, every anchor to an element, and what a page loads
must lie in the folder, since the site is read without a network. Exit 1 where one does not.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {("script", "src"), ("img", "src"), ("iframe", "src"), ("link", "href")}
# It is served under whatever address was not found, so its links begin at the root.
SERVED = {"404.html"}


class Page(HTMLParser):
    """The links of a page, what it loads, and its anchors."""

    def __init__(self) -> None:
        """Begin with none."""
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = {"", "top"}

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Note what an element links to, loads and is called."""
        for name, value in attributes:
            if value is None:
                continue
            if (tag, name) in LOADED:
                self.loaded.append(value)
            elif (tag, name) == ("a", "href"):
                self.links.append(value)
            elif name == "id" or (tag, name) == ("a", "name"):
                self.anchors.add(value)


@cache
def read(file: Path) -> Page:
    """Return what a page of the site holds."""
    page = Page()
    page.feed(file.read_text(encoding="utf-8"))
    return page


def wrong(folder: Path) -> Iterator[str]:
    """Yield a sentence for each link that leads nowhere and each thing that is loaded elsewhere."""
    for file in sorted(folder.rglob("*.html")):
        if file.name in SERVED:
            continue
        name, page = file.relative_to(folder), read(file)
        for link in page.loaded:
            if urlsplit(link).scheme in ("http", "https") or link.startswith("//"):
                yield f"{name} loads {link} from the network."
        for link in (*page.links, *page.loaded):
            yield from (f"{name} links to {link}: {says}." for says in lost(file, link))


def lost(file: Path, link: str) -> Iterator[str]:
    """Yield what is missing where a link of a page leads, if anything is."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return
    target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
    if target.is_dir():
        target = target / "index.html"
    if not target.is_file():
        yield "there is no such file"
    elif target.suffix == ".html" and unquote(parts.fragment) not in read(target).anchors:
        yield "the page has no such anchor"


def main(folder: Path) -> int:
    """Print what is wrong; return the exit status."""
    pages = sum(1 for _ in folder.rglob("*.html"))
    found = list(wrong(folder.resolve()))
    for sentence in found:
        print(sentence, file=sys.stderr)
    print(f"{pages} pages; {len(found) or 'no'} broken links.")
    return bool(found) or not pages


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
