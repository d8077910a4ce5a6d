"""English and Chinese: which page is the other's, and what a reader of each finds around it."""

from __future__ import annotations

import re
from types import SimpleNamespace

import jieba
from mkdocs.structure.nav import Section

# The search takes Chinese apart by it, and it tells of every file that it reads.
jieba.setLogLevel("WARNING")
CHINESE = ".zh-CN.md"
HOME = "中文"
TITLES = {
    "Gallery": "报告示例（英文）",
    "Reference": "参考手册（英文）",
    "Behind it": "背后的决定（英文）",
}
SWITCH = {"en": "English", "zh": "中文"}


def language_of(page) -> str:
    """Return the language that a page is written in."""
    return "zh" if page.file.src_uri.endswith(CHINESE) else "en"


def counterpart(page, files, language: str):
    """Return the same page in another language, or that language's first page."""
    path = page.file.src_uri
    if language == "zh":
        path = path if path.endswith(CHINESE) else path.removesuffix(".md") + CHINESE
    else:
        path = path.replace(CHINESE, ".md")
    found = files.get_file_from_path(path)
    return found or files.get_file_from_path("index.zh-CN.md" if language == "zh" else "index.md")


def on_page_context(context, *, page, config, nav):
    """Set the language of what stands around a page, its navigation and where the switch leads."""
    language = language_of(page)
    config["theme"]["language"] = language
    files = context["pages"]
    by_path = SimpleNamespace(get_file_from_path={file.src_uri: file for file in files}.get)
    other = "en" if language == "zh" else "zh"
    config["extra"]["other"] = {
        "name": SWITCH[other], "lang": other, "link": counterpart(page, by_path, other).url
    }  # fmt: skip
    if page.parent is None or page.parent.title == HOME:
        page.meta.setdefault("hide", ["navigation"])  # it has no page beside it
    whole = getattr(nav, "whole", None) or nav.items
    nav.whole = whole
    chinese = next(item for item in whole if isinstance(item, Section) and item.title == HOME)
    others = [item for item in whole if item is not chinese]
    for item in others:
        item.english = getattr(item, "english", item.title)
        item.title = TITLES.get(item.english, item.english) if language == "zh" else item.english
    nav.items = (
        [*chinese.children, *(item for item in others if item.english in TITLES)]
        if language == "zh"
        else others
    )
    for side in ("previous_page", "next_page"):
        beside = getattr(page, side)
        if beside is not None and language_of(beside) != language:
            setattr(page, side, None)
    return context


def on_page_markdown(markdown: str, *, page, config, files) -> str:
    """Leave out a document's own line of links to its translation: the header has the switch."""
    return re.sub(r"^(\[[^\]]*\]\([^)]*\)(?: · )?)+\n", "", markdown, count=1, flags=re.MULTILINE)
