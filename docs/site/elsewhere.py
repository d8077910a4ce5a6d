"""Pages of the site for files that lie outside of docs/: the README, examples, whatever is linked.

The documents link to one another as a code host shows them. Here each such link is followed: a
document becomes a page, another file a page that shows it.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
# A link outside of code; of what stands in a fence, nothing is a link.
FENCE = re.compile(r"(^```.*?^```)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\]]*\])*\])\(([^)\s]+)\)")
HOMES = {"README.md": "index.md", "README.zh-CN.md": "index.zh-CN.md"}
LANGUAGES = {".py": "python", ".toml": "toml", ".txt": "text", ".h": "cpp", ".cpp": "cpp"}


def page_of(path: str) -> str:
    """Return the page that stands for a file of the project, both as paths with slashes."""
    if path in HOMES:
        return HOMES[path]
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if (ROOT / path).is_dir():
        return f"{path}/index.md"
    return path if path.endswith(".md") else f"{path}.md"


def source_of(page: str) -> str:
    """Return the file that a page stands for."""
    return {home: path for path, home in HOMES.items()}.get(page, page)


def linked(path: str, text: str) -> dict[str, str]:
    """Return which file of the project each relative link of a document leads to."""
    found = {}
    for part in FENCE.split(text)[::2]:
        for _, link in LINK.findall(part):
            target = link.partition("#")[0]
            if target and not re.match(r"\w+:", target):
                found[link] = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
    return found


def moved(path: str, text: str) -> str:
    """Return a document's text with its links as they are between the pages of the site."""
    targets, here = linked(path, text), posixpath.dirname(page_of(path))

    def replace(match: re.Match[str]) -> str:
        words, link = match.groups()
        if link not in targets:
            return match[0]
        anchor = link.partition("#")[2]
        page = posixpath.relpath(page_of(targets[link]), here or ".")
        return f"{words}({page}{'#' + anchor if anchor else ''})"

    parts = FENCE.split(text)
    return "".join(part if n % 2 else LINK.sub(replace, part) for n, part in enumerate(parts))


def shown(path: str) -> str:
    """Return the page of a file that is no document: its text; of a folder, what is in it."""
    whole = ROOT / path
    if whole.is_dir():
        files = sorted(file.name for file in whole.glob("*.py"))
        rows = [f"- [{name}]({name}.md): {first_line(whole / name)}" for name in files]
        return "\n".join([f"# {path}", "", *rows, ""])
    language = LANGUAGES.get(whole.suffix, "text")
    return f"# {whole.name}\n\n````{language}\n{whole.read_text(encoding='utf-8')}\n````\n"


def first_line(file: Path) -> str:
    """Return what a script says of itself."""
    found = re.match(r'(?:#.*\n)*"""(.*?)(?:"""|\n\n)', file.read_text(encoding="utf-8"), re.DOTALL)
    return " ".join(found[1].split()) if found else ""


def on_files(files: Files, *, config) -> Files:
    """Add a page for each file outside of docs/ that a page links to, and what these link to."""
    wanted = [*HOMES, "CONTRIBUTING.md", "CHANGELOG.md", "examples"]
    wanted += [f"docs/{file.src_uri}" for file in files.documentation_pages()]
    seen: set[str] = set()
    while wanted:
        path = wanted.pop()
        if path in seen or not (ROOT / path).exists():
            continue
        seen.add(path)
        document = path.endswith(".md")
        text = (ROOT / path).read_text(encoding="utf-8") if document else ""
        wanted += linked(path, text).values()
        if (ROOT / path).is_dir():
            wanted += [f"{path}/{file.name}" for file in (ROOT / path).glob("*.py")]
        if not path.startswith("docs/"):
            content = text if document else shown(path)
            files.append(File.generated(config, page_of(path), content=content))
    return files


def on_page_markdown(markdown: str, *, page, config, files) -> str:
    """Turn the links of a document into those between pages."""
    path = source_of(page.file.src_uri)
    if page.file.generated_by and not (ROOT / path).exists():
        return markdown
    if page.file.generated_by is None:
        path = os.path.relpath(page.file.abs_src_path, ROOT).replace(os.sep, "/")
    return moved(path, markdown) if path.endswith(".md") else markdown
