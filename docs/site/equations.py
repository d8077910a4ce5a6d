"""Equations of the mathematics: an anchor for each, what computes it beside it, links from "eq. 7".

What computes an equation is found in the docstrings, which cite it by its number.
"""

from __future__ import annotations

import ast
import posixpath
import re
from collections.abc import Iterator
from functools import cache
from html import escape
from pathlib import Path

import public

TAG = re.compile(r"\\tag\{(\d+)\}")
NUMBER = r"\d+(?:(?:,| to| and|,? or)\s+\d+)*"
# The source's own numbers are others.
CITED = re.compile(rf"(?<![Ss]ource )\b([Ee]qs?\.\s*)({NUMBER})|(?<!原文)(式\s*)(\(\d+\))")
MATHEMATICS = {"en": "math.md", "zh": "math.zh-CN.md"}
MANY, FEW = 8, 5  # beyond so many names the others are folded away
WORDS = {"en": "Computed by", "zh": "由它们计算"}
TOKEN = re.compile(r"(<[^>]+>)")
# In these a number stays what it is; of the divisions, in formulas.
LEFT_ALONE = re.compile(
    r"<(a|code|pre|script|style|h1|summary)\b|<(div|span) class=\"arithmatex\"", re.IGNORECASE
)
PLACE = re.compile(r'<p class="computed-by" data-equation="(\d+)"></p>')


def numbers(phrase: str) -> list[int]:
    """Return the equations that "1, 4, 9" or "3 to 10" names."""
    found = [int(n) for n in re.findall(r"\d+", phrase)]
    return list(range(found[0], found[-1] + 1)) if " to " in phrase else found


@cache
def computed_by() -> dict[int, list[str]]:
    """Return the documented objects whose docstring cites each equation.

    What cites few comes first: it computes just that.
    """
    found: dict[int, list[tuple[int, bool, str]]] = {}
    for path, says in docstrings():
        if not public.has_page(path):
            continue
        cited = {n for match in CITED.finditer(says) for n in numbers(match[2] or "")}
        for number in cited:
            found.setdefault(number, []).append((len(cited), ".cells." in path, path))
    return {number: [path for *_, path in sorted(rows)] for number, rows in found.items()}


def docstrings() -> Iterator[tuple[str, str]]:
    """Yield every object of the package by its path, with its docstring."""
    source = public.ROOT / "src"
    for file in sorted((source / public.PACKAGE).rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        parts = file.relative_to(source).with_suffix("").parts
        yield from inside(tree, ".".join(part for part in parts if part != "__init__"))


def inside(node: ast.AST, path: str) -> Iterator[tuple[str, str]]:
    """Yield the classes and functions in a module or a class."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef):
            yield f"{path}.{child.name}", ast.get_docstring(child) or ""
            if isinstance(child, ast.ClassDef):
                yield from inside(child, f"{path}.{child.name}")


def short(path: str) -> str:
    """Return what an object is called: with its class, where it is a method."""
    parts = path.split(".")
    return ".".join(parts[-2:]) if parts[-2][:1].isupper() else parts[-1]


def fence(source, language, css_class, options, md, **kwargs) -> str:
    """Return a displayed equation; a numbered one has an anchor and says what computes it."""
    tag = TAG.search(source)
    formula = f'<div class="arithmatex">\\[\n{escape(source)}\n\\]</div>'
    if not tag:
        return f'<div class="equation">{formula}</div>'
    number = int(tag[1])
    # A number's place is taken by what the page's own language calls it: `on_page_content`.
    return (
        f'<div class="equation" id="eq-{number}">{formula}'
        f'<p class="computed-by" data-equation="{number}"></p></div>'
    )


def on_config(config):
    """Give the fences named ``math`` to `fence`."""
    fences = config["mdx_configs"].setdefault("pymdownx.superfences", {})
    fences["custom_fences"] = [{"name": "math", "class": "equation", "format": fence}]
    return config


def on_page_content(html: str, *, page, config, files) -> str:
    """Link each "eq. 7" to the equation, and each equation to what computes it."""
    if not CITED.search(html) and "computed-by" not in html:
        return html
    language = "zh" if ".zh-CN" in page.file.src_uri else "en"
    target = files.get_file_from_path(MATHEMATICS[language])
    here = posixpath.relpath(target.url, posixpath.dirname(page.url) or ".")
    html = PLACE.sub(lambda match: computers(int(match[1]), language), html)
    return "".join(linked(html, here))


def linked(html: str, page: str) -> Iterator[str]:
    """Yield the parts of a page's HTML, with citations as links where they are plain text."""
    inside, depth = "", 0
    for part in TOKEN.split(html):
        if not part.startswith("<"):
            yield part if depth else CITED.sub(lambda match: link(match, page), part)
            continue
        yield part
        if not depth and (begins := LEFT_ALONE.match(part)):
            inside, depth = (begins[1] or begins[2]).lower(), 1
        elif depth and re.match(rf"<{inside}\b", part):
            depth += 1
        elif depth and part.startswith(f"</{inside}>"):
            depth -= 1


def link(match: re.Match[str], page: str) -> str:
    """Return a citation with each of its numbers a link."""
    words, cited = (match[1], match[2]) if match[1] else (match[3], match[4])
    first, *rest = re.split(r"(\(?\d+\)?)", cited)[1:]

    def one(number: str, before: str = "") -> str:
        return f'<a class="eq" href="{page}#eq-{number.strip("()")}">{before}{number}</a>'

    return one(first, words) + "".join(one(part) if n % 2 else part for n, part in enumerate(rest))


def computers(number: int, language: str) -> str:
    """Return the links beside an equation."""
    links = [
        f'<autoref identifier="{path}"><code>{short(path)}</code></autoref>'
        for path in computed_by().get(number, ())
    ]
    if not links:
        return ""
    words, names = WORDS[language], ", ".join(links)
    if len(links) <= MANY:
        return f'<p class="computed-by">{words} {names}</p>'
    summary = f"<summary>{words} {', '.join(links[:FEW])} …</summary>"
    return f'<details class="computed-by">{summary}{", ".join(links[FEW:])}</details>'


def on_post_build(config) -> None:
    """Fail where an equation that docstrings cite is not on the page."""
    page = Path(config["site_dir"]) / "math.html"
    missing = [n for n in computed_by() if f'id="eq-{n}"' not in page.read_text(encoding="utf-8")]
    if missing:
        raise SystemExit(f"math.md has no equation {missing}, which docstrings cite.")
