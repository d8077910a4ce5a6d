"""The documents: their code runs, their equations are the code's, their links lead somewhere."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import throughtime as tt

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted(
    path for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")) if path.name != "CHANGELOG.md"
)
CODE_BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
# A block of text right after one of code is what that one prints.
PRINTED = re.compile(r"\n+```text\n(.*?)^```", re.MULTILINE | re.DOTALL)
EQUATIONS = range(1, 11)
# What a document may import although `make setup` may have been run without it.
OPTIONAL = ("onnxruntime",)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.fixture
def default_dtype() -> Iterator[None]:
    before = torch.get_default_dtype()
    yield
    torch.set_default_dtype(before)


IN_CHINESE = sorted(path for path in DOCUMENTS if path.name.endswith(".zh-CN.md"))
# One in Chinese has the same code as the English one, to the last name: that is tested below.
WITH_CODE = [
    path
    for path in DOCUMENTS
    if path not in IN_CHINESE and CODE_BLOCK.search(path.read_text(encoding="utf-8"))
]


@pytest.mark.usefixtures("default_dtype")
@pytest.mark.parametrize("path", WITH_CODE, ids=name_of)
def test_code_of_a_document_runs_from_top_to_bottom(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = path.read_text(encoding="utf-8")
    names: dict[str, object] = {"__name__": "__document__"}
    for block in CODE_BLOCK.finditer(text):
        for package in re.findall(r"^import (\w+)", block[1], re.MULTILINE):
            if package in OPTIONAL and find_spec(package) is None:
                pytest.skip(f"from here on this document needs {package}, which is not installed")
        # Blank lines before it, so that a traceback names the document's own line.
        above = "\n" * (text[: block.start()].count("\n") + 1)
        exec(compile(above + block[1], name_of(path), "exec"), names)
        printed, shown = capsys.readouterr().out, PRINTED.match(text, block.end())
        assert shown is None or shown[1].split() == printed.split(), f"it printed\n{printed}"


@pytest.mark.parametrize("chinese", IN_CHINESE, ids=name_of)
def test_a_document_says_the_same_in_both_languages(chinese):
    english = chinese.with_name(chinese.name.replace(".zh-CN", ""))
    ours, theirs = (path.read_text(encoding="utf-8") for path in (english, chinese))

    def code(text: str) -> list[str]:
        """Return the code and the equations without comments and words, which are the reader's."""
        blocks = re.findall(r"^```\w+\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        words = r"(?:^| +)# .*|(?<=\\text)\{[^}]*\}"
        return [re.sub(words, "", block, flags=re.MULTILINE) for block in blocks]

    def runs(text: str) -> list[str]:
        """Return what Python makes of the code: comments and line breaks are not in it."""
        return [ast.dump(ast.parse(block)) for block in CODE_BLOCK.findall(text)]

    def links(text: str) -> set[str]:
        """Return which files it links to; headings are in the reader's language."""
        found = re.findall(r"\]\(([^)#]+)[^)]*\)", text)
        return {link.replace(".zh-CN", "") for link in found}

    def headings(text: str) -> list[str]:
        return re.findall(r"^(#+) ", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)

    assert code(ours) == code(theirs)
    assert runs(ours) == runs(theirs)
    assert links(ours) == links(theirs)
    assert headings(ours) == headings(theirs)


def test_the_guide_shows_every_finding():
    from throughtime.diagnosis.findings import FINDINGS

    text = (ROOT / "docs" / "guides" / "why-does-it-not-learn.md").read_text(encoding="utf-8")
    headings = re.findall(r"^### ([\w-]+)$", text, re.MULTILINE)
    assert sorted(headings) == sorted(FINDINGS)
    for code, section in zip(
        headings, re.split(r"^### .*$", text, flags=re.MULTILINE)[1:], strict=True
    ):
        blocks = "".join(CODE_BLOCK.findall(section))
        assert re.search(rf"assert .*code.*{code}", blocks), f"no model shows {code}"
        assert f"](#{code})" in text, f"the table at the top does not name {code}"


def anchors(path: Path) -> set[str]:
    """Return the anchors that GitHub makes of a document's headings."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_links_within_the_project_lead_somewhere(path):
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)]+)\)", text):
        if re.match(r"\w+:", link):
            continue
        target, _, anchor = link.partition("#")
        file = (path.parent / target) if target else path
        assert file.exists(), f"{name_of(path)} links to {link}"
        assert not anchor or anchor in anchors(file), f"{name_of(path)} links to {link}"


def cited(folder: str) -> dict[int, list[str]]:
    """Return where each equation number is cited: "eq. 7", "eq. 1, 4, 9", "eq. 3 to 10"."""
    where: dict[int, list[str]] = {number: [] for number in EQUATIONS}
    for path in sorted((ROOT / folder).rglob("*.py")):
        if path == Path(__file__).resolve():
            continue
        text = path.read_text(encoding="utf-8")
        for phrase in re.findall(
            r"(?<!source )\beqs?\.\s*(\d+(?:(?:,| to| and|,? or)\s+\d+)*)", text, re.IGNORECASE
        ):
            numbers = [int(n) for n in re.findall(r"\d+", phrase)]
            if " to " in phrase:
                numbers = list(range(numbers[0], numbers[-1] + 1))
            for number in numbers:
                assert number in where, f"{name_of(path)} cites eq. {number}, which does not exist"
                where[number].append(name_of(path))
    return where


def test_equations_of_math_md_are_numbered_1_to_10():
    tags = re.findall(r"\\tag\{(\d+)\}", (ROOT / "docs" / "math.md").read_text(encoding="utf-8"))
    assert [int(tag) for tag in tags] == list(EQUATIONS)


@pytest.mark.parametrize("folder", ["src", "tests"])
def test_every_equation_is_cited(folder):
    missing = [number for number, where in cited(folder).items() if not where]
    assert not missing, f"no file under {folder}/ cites eq. {missing}"


@pytest.mark.parametrize("name", sorted(tt.__all__))
def test_public_names_have_docstrings(name):
    thing = getattr(tt, name)
    if not callable(thing):
        assert inspect.ismodule(thing) and thing.__doc__
        return
    assert (inspect.getdoc(thing) or "").strip(), f"tt.{name} has no docstring"
    if inspect.isclass(thing):
        for member, value in vars(thing).items():
            if not member.startswith("_") and (
                inspect.isfunction(value) or isinstance(value, property)
            ):
                assert inspect.getdoc(value), f"tt.{name}.{member} has no docstring"


def test_public_names_are_sorted_and_exist():
    assert len(set(tt.__all__)) == len(tt.__all__)
    for name in tt.__all__:
        assert hasattr(tt, name)


def test_the_report_carries_the_same_equations():
    from throughtime.report.equations import EQUATIONS as IN_REPORT

    assert list(IN_REPORT) == list(EQUATIONS)
