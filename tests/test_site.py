"""The site's navigation and its equations; `make docs` builds it and checks every link."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "docs" / "site"
# What a hook adds: the README and other documents of the root, and folders filled when it is built.
HOMES = {"index.md": "README.md", "index.zh-CN.md": "README.zh-CN.md"}
MADE = ("reference/", "decisions/", "gallery/index.md", "examples/index.md")


def nav() -> list[str]:
    """Return the pages that mkdocs.yml lists."""
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    return re.findall(r"^ +- .*: (\S+\.md|\S+/)$", text.partition("\nnav:")[2], re.MULTILINE)


def load(name: str):
    spec = importlib.util.spec_from_file_location(f"site_{name}", SITE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_of_the_navigation_has_a_file():
    for page in nav():
        if page not in MADE:
            beside = ROOT / HOMES.get(page, page)
            assert (ROOT / "docs" / page).is_file() or beside.is_file(), f"no file for {page}"


def test_every_document_is_in_the_navigation():
    docs = ROOT / "docs"
    files = {path.relative_to(docs).as_posix() for path in docs.rglob("*.md")}
    files = {path for path in files if not path.startswith(("decisions/", "site/"))}
    assert files - set(nav()) == set()


def test_both_languages_have_the_same_equations():
    english, chinese = (
        re.findall(r"\\tag\{(\d+)\}", (ROOT / "docs" / name).read_text(encoding="utf-8"))
        for name in ("math.md", "math.zh-CN.md")
    )
    assert english == chinese


@pytest.mark.parametrize(
    ("page", "says"),
    [
        ('<a href="b.html#there">', []),
        ('<a href="b.html#gone">', ["a.html links to b.html#gone: the page has no such anchor."]),
        ('<a href="c.html">', ["a.html links to c.html: there is no such file."]),
        ('<a href="https://example.org">', []),
        (
            '<script src="https://example.org/x.js"></script>',
            ["a.html loads https://example.org/x.js from the network."],
        ),
    ],
)
def test_the_checker_sees_a_broken_link(page, says, tmp_path):
    (tmp_path / "a.html").write_text(page, encoding="utf-8")
    (tmp_path / "b.html").write_text('<h2 id="there">', encoding="utf-8")
    assert list(load("check").wrong(tmp_path)) == says
