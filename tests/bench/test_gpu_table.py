"""What a run on a GPU leaves when something goes wrong in it: a row, and all the others."""

from __future__ import annotations

import json
import subprocess
import sys
import threading

import pytest
import torch

from throughtime import kernels
from throughtime.bench import gpu, gpu_ahead, gpu_goals, gpu_right, gpu_rivals, gpu_steps, gpu_table

CPU = torch.device("cpu")
SIZE = (2, 3, 2, 3)


@pytest.fixture
def table(tmp_path):
    return gpu_table.Table(tmp_path, {"device": "none"}, 5)


def told(table) -> dict:
    return json.loads((table.folder / "gpu.json").read_text(encoding="utf-8"))


def test_a_row_that_fails_is_written_as_that_and_the_next_one_runs(table):
    with table.row(table="Steps", who="one"):
        raise MemoryError("out of memory\nand more")
    with table.row(table="Steps", who="two") as row:
        row["ms"] = 1.0
    assert [row.get("failed") for row in told(table)["rows"]] == [
        "MemoryError: out of memory",
        None,
    ]
    assert "| two |  | 1 |" in (table.folder / "gpu.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("way", ["the device is dead", "nothing comes back"])
def test_the_program_begins_anew_behind_a_row_that_took_the_device_along(way, table, monkeypatch):
    began = threading.Event()
    monkeypatch.setattr(gpu_table.os, "execv", lambda *_: began.set())
    monkeypatch.setattr(gpu_table.os, "environ", {})
    monkeypatch.setattr(gpu_table, "alive", lambda: way != "the device is dead")
    monkeypatch.setattr(gpu_table, "LONGEST", 0.01 if way == "nothing comes back" else 100)
    if way == "the device is dead":
        with table.row(table="Right", who="one"):
            raise RuntimeError("an illegal memory access was encountered")
    else:
        context = table.row(table="Right", who="one")
        context.__enter__()
    assert began.wait(10)
    after = gpu_table.Table(table.folder, {"device": "another"}, 5)
    assert after.has(who="one") and not after.has(who="two")
    assert after.about["device"] == "none" and after.until == table.until
    assert "failed" in after.rows[0]
    assert not gpu_table.Table(table.folder, {}, 5).rows  # a later run begins with none


def test_a_process_that_fails_or_hangs_while_it_compiles_is_a_row_and_ends(table, monkeypatch):
    does = {"GRU": "pass", "LSTM": "import time; time.sleep(99)", "RNN": "raise OSError('gone')"}
    started, real = [], subprocess.Popen

    def begin(command, **options):
        started.append(real([sys.executable, "-S", "-c", does[command[3]]], **options))
        return started[-1]

    monkeypatch.setattr(gpu_ahead.subprocess, "Popen", begin)
    monkeypatch.setattr(gpu_ahead, "LONGEST", 2)
    for _ in range(2):
        gpu_ahead.compile_ahead(table, list(does), CPU, [SIZE], ["bfloat16"])
    assert len(started) == 3 and all(process.wait() is not None for process in started)
    fine, hung, gone = table.rows
    assert (
        fine["seconds"] > 0 and "timed out" in hung["failed"] and gone["failed"] == "OSError: gone"
    )


def few(monkeypatch, kinds=("GRU",)) -> None:
    monkeypatch.setattr(gpu, "KINDS", kinds)
    monkeypatch.setattr(gpu_right, "KINDS", kinds)
    monkeypatch.setattr(gpu_rivals.TRITON, "missing", lambda: "triton is not installed.")
    monkeypatch.setattr(gpu, "DRY", [SIZE])
    monkeypatch.setattr(gpu, "PRECISIONS", ("float32",))
    monkeypatch.setattr(gpu_steps, "JOBS", {})
    monkeypatch.setattr(gpu_rivals, "absent", lambda name: "it is not installed")
    monkeypatch.setattr(torch, "compile", lambda cell, backend: cell)  # it takes ten seconds
    monkeypatch.setattr(torch.compiler, "reset", lambda: None)


def test_all_of_it_runs_with_a_row_for_each_contender(tmp_path, monkeypatch):
    few(monkeypatch, ("LSTM", "sigmoid"))
    assert gpu.run_all(tmp_path, dry=True)
    found = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    rows = [row for row in found["rows"] if row["table"] == "A training step"]
    assert all(row["agrees"] == "yes" and row["ms"] > 0 for row in rows)
    who = {(row["kind"], row["what"], row["who"]) for row in rows}
    assert len(who) == len(rows) == 8 + 3
    assert ("LSTM", "resets", "cuDNN, a call for each stretch") in who
    assert {"compiled loop", "loop in torch"} <= {name for *_, name in who}
    assert len(found["goals"]) == 4 and "## Goals" in (tmp_path / "gpu.md").read_text("utf-8")


def test_what_is_wrong_is_not_timed_and_all_else_is(tmp_path, monkeypatch):
    few(monkeypatch)
    monkeypatch.setattr(gpu_right, "BOUNDS", {"float32": -1.0, "bfloat16": 0.1})
    assert not gpu.run_all(tmp_path, dry=True)
    rows = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))["rows"]
    steps = [row for row in rows if row["table"] == "A training step"]
    ours = [row for row in steps if row["who"] == "throughtime"]
    assert len(ours) == 3 and all("not timed" in row["failed"] for row in ours)
    assert all(row["ms"] > 0 for row in steps if row not in ours) and len(steps) > 5


def test_gradients_that_disagree_count_for_no_goal(tmp_path, monkeypatch):
    few(monkeypatch)
    real = gpu_rivals.Case.own

    def half(case, engine, **options):
        step = real(case, engine, **options)
        return lambda: [g / 2 for g in step()]

    monkeypatch.setattr(gpu_rivals.Case, "own", half)
    gpu.run_all(tmp_path, dry=True)
    found = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert {row["agrees"] for row in found["rows"] if row.get("who") == "throughtime"} == {"NO"}
    assert not found["goals"]


@pytest.mark.parametrize("kind", ["GRU", "LSTM", "RNN"])
def test_resets_as_one_writes_them_for_cudnn_are_ours(kind):
    case = gpu_rivals.Case(kind, (3, 6, 2, 4), "float64", CPU)
    case.reset[2, 1] = case.reset[4] = case.reset[0, 0] = True
    with kernels.use("reference"):
        want = case.own("reference", reset=case.reset)()
    for found in (case.cut(), case.loop(resets=True)()):
        assert gpu._apart(found, want) < 1e-12


def test_which_goal_is_which():
    goal = gpu_goals.goal_of
    assert goal("LSTM", 1024, "bfloat16", "all steps") == 1
    assert goal("LSTM", 1024, "float32", "all steps") == gpu_goals.ELSEWHERE
    assert goal("RNN", 64, "float32", "resets") == goal("sigmoid", 64, "float32", "all steps") == 1
    row = {"table": "Single steps", "what": "map", "recorded, ms": 1.0}
    reached = [gpu_goals.goals([row | {"T calls of autograd, ms": ms}]) for ms in (19.0, 21.0)]
    assert [rows[0]["reached"] for rows in reached] == ["no", "yes"]
