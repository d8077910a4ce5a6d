"""The README as an index of packages shows it: there, links into this repository lead nowhere.

scikit-build-core asks this module for the field "readme". Where pyproject.toml says by
``metadata.readme.source`` where the repository can be read, a link becomes one to there; until then
its words stay, and a picture is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

__all__ = ["described", "dynamic_metadata"]

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"(!?)\[((?:[^][]|\[[^]]*\])*)\]\(([^)\s]+)\)")
# A line of a menu, which without its links says nothing.
ONLY_LINKS = re.compile(rf"^(?:{LINK.pattern}(?: · )?)+$", re.MULTILINE)
ABROAD = re.compile(r"[a-z]+:|#")
CHECKOUT = 'pip install ".[report]"   # in a checkout of this repository;'
INSTALLED = 'pip install "throughtime[report]"   # without [report] it draws nothing;'


def described(text: str, source: str = "") -> str:
    """Return Markdown without links into the repository.

    Args:
        text: of the README.
        source: where its files can be read, as "https://host/project/blob/main"; empty: nowhere.
    """
    blocks = re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)
    for i in range(0, len(blocks), 2):
        kept = blocks[i] if source else ONLY_LINKS.sub("", blocks[i])
        kept = LINK.sub(lambda found: _link(found, source), kept)
        blocks[i] = re.sub(r"\n{3,}", "\n\n", kept)
    return "".join(blocks).replace(CHECKOUT, INSTALLED)


def _link(found: re.Match[str], source: str) -> str:
    picture, words, target = found.groups()
    if ABROAD.match(target):
        return found[0]
    if picture:
        return f"![{words}]({source}/{target}?raw=true)" if source else ""
    return f"[{words}]({source}/{target})" if source else words


def dynamic_metadata(field: str, settings: Mapping[str, str]) -> dict[str, str]:
    """Return what scikit-build-core asks for."""
    assert field == "readme", field
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return {"content-type": "text/markdown", "text": described(text, settings.get("source", ""))}
