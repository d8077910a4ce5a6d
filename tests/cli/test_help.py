"""What a stranger reads first: help, version, and one sentence where something cannot be used."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import throughtime as tt
from throughtime import cli

from .conftest import refused

NAMES = [command.name for command in cli.COMMANDS]
SWITCHES = (
    "--help",
    "--version",
    "--json",
    "--resume",
    "--overwrite",
    "--quick",
    "--once",
    "--remedies",
)


@pytest.mark.parametrize("name", ["", *NAMES])
def test_help_is_plain_and_fits_80_columns(run, monkeypatch, name: str):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = run(*filter(None, [name]), "--help")
    assert code == 0 and err == "" and max(map(len, out.splitlines())) <= 80
    assert "Raises" not in out and not re.search(r"<\w+>|None|\[default: \(|x>=", out)
    assert name not in NAMES or "--json" in out
    for flag in re.findall(r"^  (--[\w-]+)(?! \S)(?=\s|$)", out, re.MULTILINE):
        assert flag in (
            "--help",
            "--version",
            "--json",
            "--resume",
            "--overwrite",
            "--once",
            "--remedies",
            "--quick",
        )


def test_without_arguments_it_is_the_help_and_no_error(run):
    assert run() == run("--help")
    assert run()[0] == 0 and all(name in run()[1] for name in NAMES)


def test_the_version_stands_alone(run):
    assert run("--version") == (0, f"{version('throughtime')}\n", "")
    assert tt.__version__ == version("throughtime")


def test_python_m_is_the_same_command_and_a_full_disk_is_a_sentence(tmp_path: Path):
    ways = {**os.environ, "OMP_NUM_THREADS": "1"}
    call = [sys.executable, "-m", "throughtime"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*call, "--version"], stdout=full, stderr=subprocess.PIPE, env=ways)
    assert done.returncode == 2
    assert done.stderr == b"throughtime: cannot write what was found: No space left on device.\n"


def test_the_examples_in_the_help_name_functions_that_there_are(run, root: Path):
    for name in NAMES:
        out = " ".join(run(name, "--help")[1].split())
        for file, function in re.findall(r"(examples/\w+\.py):(\w+)", out):
            assert f"def {function}(" in (root / file).read_text()


# --- a target that cannot be used is refused before its file is run ---------------------------

SCRIPT = """
from torch import nn
def build(): ...
def takes(size, *, depth, width=3): ...
async def later(): ...
_hidden = made = 3
raise SystemExit("it ran")
"""


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("m.py:bild", ["m.py has no bild; it has build, takes."]),
        ("m.py:takes", ["takes in m.py needs size, depth", "without arguments"]),
        ("folder:build", ["folder is a folder"]),
        ("m.txt:build", ["must end in .py"]),
        ("none.py:build", ["there is no file none.py"]),
        ("broken.py:build", ["SyntaxError", "line 2"]),
        ("null.py:build", ["null.py cannot be loaded"]),
        ("latin.py:build", ["latin.py cannot be loaded"]),
        ("m.py:build", ["SystemExit: it ran"]),  # and here it was
        ("m.py:nn", ["it ran"]),
        ("m.py:later", ["it ran"]),
        ("m.py:made", ["it ran"]),
        ("star.py:anything", ["star.py has no anything once it has been run"]),
    ],
)
def test_a_wrong_target_is_refused_before_the_script_is_run(run, tmp_path: Path, target, words):
    (tmp_path / "folder").mkdir()
    for name, text in (
        ("m.py", SCRIPT),
        ("m.txt", SCRIPT),
        ("broken.py", "\ndef build(:\n"),
        ("null.py", "\0"),
        ("star.py", "from math import *\n"),
    ):
        (tmp_path / name).write_text(text)
    (tmp_path / "latin.py").write_bytes(b"def build(): return '\xe9'\n")
    refused(run("check", target), *words)


GIVEN = """
import torch
from torch import nn
print("loading the data")
layer, x = nn.GRU(3, 4), torch.randn(6, 2, 3)
def ends():
    raise SystemExit(0)
def speaks():
    print("building")
    return layer, x, lambda m, b: print("running") or m(b)[0].pow(2).mean((1, 2))
def words():
    return (*speaks(), "hello")
def few_words():
    return (*speaks(), ["hello"])
def none():
    return layer, x, lambda m, b: m(b) and None
def listed():
    return layer, x, lambda m, b: m(b)[0].pow(2).mean((1, 2)).tolist()
def detached():
    return layer, x, lambda m, b: m(b)[0].detach().mean()
def matrix():
    return layer, x, lambda m, b: m(b)[0].mean(2)
def whole():
    return layer, x, lambda m, b: m(b)[0].mean().long()
def elsewhere():
    return layer, x, lambda m, b: x.mean().requires_grad_()
def recursive():
    return recursive()
"""


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("ends", ["raised SystemExit: 0", "(m.py, line 7)"]),
        ("words", ["the fourth", "is str, not a list of words"]),
        ("few_words", ["words must have one entry a step"]),
        ("none", ["NoneType"]),
        ("listed", ["list"]),
        ("detached", ["they require no grad"]),
        ("matrix", ["(6, 2)"]),
        ("whole", ["int64"]),
        ("elsewhere", ["no recurrent layer ran"]),
        ("recursive", ["RecursionError"]),
    ],
)
def test_what_a_function_does_wrong_is_one_sentence(run, tmp_path: Path, function, words):
    (tmp_path / "m.py").write_text(GIVEN)
    code, out, err = run("profile", f"m.py:{function}")
    printed = [
        line for line in err.splitlines() if line in ("loading the data", "building", "running")
    ]
    refused((code, out, err.replace("".join(f"{line}\n" for line in printed), "")), *words)
    assert not (tmp_path / "throughtime-profile.html").exists()


def test_what_a_script_prints_does_not_get_into_the_json(run, tmp_path: Path):
    (tmp_path / "m.py").write_text(GIVEN)
    code, out, err = run("check", "m.py:speaks", "--json")
    assert code == 0 and json.loads(out)["layers"] == ["l0"]
    assert err.splitlines() == ["loading the data", "building", "running"]


def test_a_file_with_the_name_of_a_library_does_not_take_its_place(run, tmp_path: Path):
    (tmp_path / "json.py").write_text(GIVEN)
    before = sys.modules["json"]
    assert run("check", "json.py:speaks")[0] == 0
    assert sys.modules["json"] is before


@pytest.mark.parametrize("command", ["profile", "treat"])
def test_a_page_that_does_not_fit_on_the_disk_is_one_sentence(run, tmp_path: Path, command: str):
    (tmp_path / "m.py").write_text(GIVEN)
    option = {"profile": "--report", "treat": "--html"}[command]
    code, _, err = run(command, "m.py:speaks", option, "/dev/full")
    said = err.splitlines()[-1]
    assert code == 2 and said == "throughtime: cannot write /dev/full: No space left on device."
