"""What an index shows of the package, and what an installed one says of itself."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from email.parser import Parser
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest

import throughtime as tt

LINK = re.compile(r"\]\(([^)]*)\)|(?:src|href)=[\"']?([^\"' >]+)|^\[[^]]+\]: *(\S+)", re.MULTILINE)
BUILD = """
import sys
from scikit_build_core.build import prepare_metadata_for_build_wheel
print("folder:", prepare_metadata_for_build_wheel(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def metadata(root: Path, tmp_path_factory: pytest.TempPathFactory):
    """Give the metadata of the wheel that would be built from this checkout."""
    if find_spec("scikit_build_core") is None:
        pytest.skip("no scikit-build-core here: pip install 'throughtime[test]'")
    folder = tmp_path_factory.mktemp("metadata")
    run = subprocess.run(
        [sys.executable, "-c", BUILD, folder], cwd=root, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    (file,) = folder.glob("*/METADATA")
    return Parser().parsestr(file.read_text(encoding="utf-8"))


def test_the_long_description_has_no_link_that_leads_nowhere(metadata, root: Path):
    text = metadata.get_payload()
    there = (root / "README.md").read_text(encoding="utf-8")
    relative = [link for found in LINK.findall(there) for link in found if link and ":" not in link]
    assert "docs/math.md" in relative, "the README's own links are not found: mend this test"
    links = [link for found in LINK.findall(text) for link in found if link]
    assert not [link for link in links if not re.match(r"https?://|#", link)], links
    assert "![" not in text and "](" not in text.replace("](#", "").replace("](http", "")
    assert metadata["Description-Content-Type"] == "text/markdown"


def test_the_long_description_is_the_readme_otherwise(metadata, root: Path):
    text, there = metadata.get_payload(), (root / "README.md").read_text(encoding="utf-8")
    assert "Why does it not learn? begins with what you see" in text
    assert "[中文]" in there and "中文" not in text
    fences = [re.findall(r"^```.*?^```$", page, re.MULTILINE | re.DOTALL) for page in (text, there)]
    assert fences[0][1:] == fences[1][1:]
    assert 'pip install ".[report]"' in fences[1][0]
    assert 'pip install "throughtime[report]"' in fences[0][0]


def test_where_the_source_can_be_read_links_lead_there(root: Path, monkeypatch):
    monkeypatch.syspath_prepend(str(root / "wheels"))
    from long_description import described

    page = "[a](b/c.md) ![d](e.png) [f](https://g) [`h[0]`](#i)\n```\n[a](b)\n```\n"
    assert described(page, "https://s/blob/main") == (
        "[a](https://s/blob/main/b/c.md) ![d](https://s/blob/main/e.png?raw=true) "
        "[f](https://g) [`h[0]`](#i)\n```\n[a](b)\n```\n"
    )
    assert described(page) == "a  [f](https://g) [`h[0]`](#i)\n```\n[a](b)\n```\n"


def test_what_only_reports_need_is_an_extra(metadata):
    needed = metadata.get_all("Requires-Dist")
    assert not [line for line in needed if re.match("plotly|jinja2", line) and "extra" not in line]
    extras = {line for line in needed if line.endswith('extra == "report"')}
    assert {re.split(r"\W", line)[0] for line in extras} == {"plotly", "jinja2"}


def test_the_classifiers_are_the_pythons_that_the_readmes_say_were_run(metadata, root: Path):
    named = {line.rpartition(" ")[2] for line in metadata.get_all("Classifier") if ":: 3." in line}
    assert min(named, key=lambda name: int(name[2:])) == metadata["Requires-Python"][2:]
    for page, begins in (("README.md", "- The whole suite"), ("README.zh-CN.md", "- 全部测试")):
        lines = (root / page).read_text(encoding="utf-8").splitlines()
        (told,) = [line for line in lines if line.startswith(begins)]
        assert set(re.findall(r"\b3\.1\d\b", told)) == named, page


def test_the_package_knows_its_version(monkeypatch, capsys):
    assert tt.__version__ == version("throughtime")
    monkeypatch.setattr(sys, "argv", ["throughtime", "--version"])
    with pytest.raises(SystemExit) as ended:  # as `python -m throughtime` does it
        runpy.run_module("throughtime", run_name="__main__", alter_sys=True)
    assert not ended.value.code and capsys.readouterr().out.strip() == tt.__version__
