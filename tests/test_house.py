"""The rooms: nothing hides a module, every module has its place, old paths go on working."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import sys
import types
import warnings
from pathlib import Path

import pytest

import throughtime
from throughtime.errors import PackageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

SOURCE = Path(throughtime.__file__).parent
NO_MODULES = ("__main__", "_native")
MODULES = [
    found.name
    for found in pkgutil.walk_packages(throughtime.__path__, "throughtime.")
    if not found.name.endswith(NO_MODULES)
]


@pytest.mark.parametrize("name", MODULES)
def test_no_module_is_hidden_by_what_its_package_exports(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the package that a module is for
        try:
            importlib.import_module(name)
        except PackageError as error:
            pytest.skip(str(error))
    parent, _, leaf = name.rpartition(".")
    assert isinstance(getattr(importlib.import_module(parent), leaf), types.ModuleType)


def test_every_room_and_every_module_of_the_large_ones_has_its_place_in_a_contract(root):
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    exhaustive = {
        container for c in contracts if c.get("exhaustive") for container in c["containers"]
    }
    rooms = (
        "kernels", "kernels.cpu", "kernels.gpu", "kernels.plain", "node", "layers", "replays",
        "schedules", "streams", "watch", "watch.keep",
    )  # fmt: skip
    assert exhaustive == {"throughtime", *(f"throughtime.{room}" for room in rooms)}


def test_torch_is_asked_in_private_in_one_file(root):
    source = root / "src" / "throughtime"
    asking = [
        str(path.relative_to(source))
        for path in sorted(source.rglob("*.py"))
        if "torch._C" in path.read_text(encoding="utf-8")
    ]
    assert asking == ["torch_state.py"]


def test_ctypes_ends_in_one_room(root):
    source = root / "src" / "throughtime"
    users = {
        path.parent.relative_to(source)
        for path in source.rglob("*.py")
        if "ctypes" in path.read_text(encoding="utf-8").replace('"""', "")
        and "import ctypes" in path.read_text(encoding="utf-8")
    }
    assert users == {Path("kernels/cpu")}


OLD = [
    ("throughtime.schedule", "Truncated", "throughtime.schedules"),
    ("throughtime.diagnosis.remedies", "chrono_", "throughtime.remedies"),
]


@pytest.mark.parametrize(("old", "name", "new"), OLD)
def test_an_old_path_works_and_says_where_things_are_now(old, name, new):
    with pytest.warns(DeprecationWarning, match=new):
        found = getattr(importlib.import_module(old), name)
    assert found is getattr(importlib.import_module(new), name)
    with pytest.raises(AttributeError):
        getattr(importlib.import_module(old), "nothing")  # noqa: B009


def test_a_folder_of_tests_has_the_name_of_the_room_that_it_tests(root):
    rooms = {path.stem for path in (root / "src" / "throughtime").iterdir()}
    folders = {path.parent.name for path in (root / "tests").glob("*/*.py")}
    assert folders - {"oracles", "clients", "integrations"} <= rooms


# One name for one thing: an engine's verbs and parts, a command and what it runs, overloads, and
# what each figure, chart or layer does in its own way.
ONE_THING = {
    "backward", "forward", "gradients", "losses", "run_forward", "trial",
    "began", "chart", "draw", "flow_of", "follows_autocast", "percent", "progress", "treat",
}  # fmt: skip


def test_no_two_public_functions_have_one_name_for_two_things():
    where: dict[str, set[str]] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                where.setdefault(node.name, set()).add(str(path.relative_to(SOURCE)))
    twice = {name: files for name, files in where.items() if len(files) > 1}
    assert not {name: files for name, files in twice.items() if name not in ONE_THING}
    assert set(twice) >= ONE_THING, "a name above is there once"
