"""The package as a user gets it: a wheel in a clean venv, and an install without a compiler."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

PARTS = ("native", "src", "wheels", "pyproject.toml", "README.md", "LICENSE", ".gitignore")
STEP = Path(__file__).resolve().parent.parent / "wheels" / "one_step.py"
COMPILERS = (os.environ.get("CXX", "c++"), "c++", "g++", "clang++")


@pytest.fixture
def source(tmp_path: Path, root: Path) -> Path:
    """Give a copy of what a build reads, so that none touches this checkout's own library."""
    if find_spec("scikit_build_core") is None:
        pytest.skip("no scikit-build-core here: nothing can be built without the network")
    for tool in ("cmake", "ninja"):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool} on the path: the package cannot be built here")
    folder = tmp_path / "source"
    folder.mkdir()
    for part in PARTS:
        if (root / part).is_dir():
            ignored = shutil.ignore_patterns("*.so", "*.so.new", "__pycache__")
            shutil.copytree(root / part, folder / part, ignore=ignored)
        else:
            shutil.copy(root / part, folder / part)
    return folder


def pip(*arguments: str | Path, **environment: str) -> None:
    """Run pip without the network."""
    run = subprocess.run(
        [sys.executable, "-m", "pip", *map(str, arguments), "--no-deps", "--no-index", "-q"],
        env=os.environ | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr


def step_in_clean_venv(folder: Path, package: Path, **environment: str) -> dict[str, Any]:
    """Install into a venv that has nothing but the dependencies, and run a training step there.

    The dependencies are read from where they are: torch is large. What makes this checkout
    importable, a .pth file beside them, is read in its own folder alone.
    """
    venv.create(folder, with_pip=False, symlinks=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = folder / "lib" / version / "site-packages"
    pip("install", "--no-build-isolation", "--target", site, package, **environment)
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    run = subprocess.run(
        [folder / "bin" / "python", "-I", STEP],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert Path(found["file"]).is_relative_to(site), "it is not the installed package that ran"
    assert found["away"] and all(away < 1e-12 for away in found["away"].values()), found["away"]
    return found


def test_one_wheel_for_every_python_works_in_a_clean_venv(source: Path, tmp_path: Path):
    if not any(map(shutil.which, COMPILERS)):
        pytest.skip("no C++ compiler here: a wheel with compiled kernels cannot be built")
    # Not optimised, in a tenth of the time: what is optimised is what all other tests run on.
    fast = "--config-settings=cmake.build-type=Debug"
    pip("wheel", source, "--no-build-isolation", "-w", tmp_path / "dist", fast)
    (wheel,) = (tmp_path / "dist").iterdir()
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    assert wheel.name.endswith(f"-py3-none-{platform}.whl")
    libraries = [name for name in zipfile.ZipFile(wheel).namelist() if ".so" in name]
    assert libraries == ["throughtime/kernels/cpu/_native.so"]
    found = step_in_clean_venv(tmp_path / "venv", wheel)
    assert found["native"] and found["ran"] == "native", found["reason"]


def test_install_without_a_compiler_works_and_says_what_is_missing(source: Path, tmp_path: Path):
    path = tmp_path / "path"
    path.mkdir()
    for tool in ("cmake", "ninja"):
        (path / tool).symlink_to(str(shutil.which(tool)))
    # An empty CXX is none.
    found = step_in_clean_venv(tmp_path / "venv", source, PATH=str(path), CXX="", CC="")
    assert not found["native"] and found["ran"] == "reference"
    assert "no C++ compiler" in found["reason"] and "g++" in found["reason"]


def test_a_wheel_without_kernels_is_for_any_machine(source: Path, tmp_path: Path):
    pip("wheel", source, "--no-build-isolation", "-w", tmp_path / "dist", THROUGHTIME_PURE="1")
    (wheel,) = (tmp_path / "dist").iterdir()
    assert wheel.name.endswith("-py3-none-any.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert not [name for name in names if ".so" in name] and "throughtime/py.typed" in names
    found = step_in_clean_venv(tmp_path / "venv", wheel)
    assert not found["native"] and found["ran"] == "reference"
    assert "THROUGHTIME_PURE" in found["reason"]
