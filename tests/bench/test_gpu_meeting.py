"""Programs that meet are tried before a GPU's table, and left out where they do not."""

from __future__ import annotations

import subprocess
from types import SimpleNamespace

import pytest
import torch

from throughtime.bench import gpu_meeting, gpu_table
from throughtime.kernels.gpu import launch, tiling
from throughtime.kernels.gpu.engine import TRITON


@pytest.fixture
def ways(monkeypatch):
    monkeypatch.setattr(tiling, "WAYS", list(tiling.WAYS))
    return lambda: list(tiling.WAYS)


def ended(**what):
    return lambda *_, **__: SimpleNamespace(**{"stdout": "", "stderr": "", "returncode": 1} | what)


def forever(*_, **__):
    raise subprocess.TimeoutExpired("python", 120)


@pytest.mark.parametrize(
    ("child", "why"),
    [
        (
            ended(stderr="AcceleratorError: CUDA error: launch failure\nCompile with …"),
            "launch fail",
        ),
        (ended(stderr="an error of 0.3"), "an error of 0.3"),
        (ended(), "without a word"),
        (forever, "more than 120 s"),
    ],
)
def test_where_they_do_not_meet_they_are_left_out_and_it_is_said(
    child, why, ways, tmp_path, monkeypatch
):
    monkeypatch.setattr(gpu_meeting.subprocess, "run", child)
    table = gpu_table.Table(tmp_path, {}, 5)
    assert not gpu_meeting.meet(table, torch.device("cpu"))
    assert table.rows[0]["right"] == "NO" and why in table.rows[0]["why"]
    assert ways() == ["whole", "steps"]


def test_where_they_meet_they_stay(ways, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_meeting.subprocess, "run", ended(stdout="0.011\n", returncode=0))
    table = gpu_table.Table(tmp_path, {}, 5)
    assert gpu_meeting.meet(table, torch.device("cpu"))
    assert table.rows[0]["largest error"] == 0.011 and ways() == ["whole", "resident", "steps"]


@pytest.mark.skipif(bool(TRITON.missing()), reason="there is no Triton")
def test_what_the_process_does_is_right_in_the_interpreter(ways, monkeypatch):
    monkeypatch.setattr(gpu_meeting, "SHAPES", [("GRU", 5)])
    assert 0 < gpu_meeting.largest_error(torch.device("cpu")) < gpu_meeting.BOUND
    assert ways()[0] == "resident"
    # What a device is tried with before anything else, in float32, has to have a kernel there.
    assert launch.trial(torch.device("cpu")) == ""


@pytest.mark.skipif(bool(TRITON.missing()), reason="there is no Triton")
@pytest.mark.usefixtures("ways")
def test_what_comes_out_otherwise_each_time_is_an_error(monkeypatch):
    monkeypatch.setattr(gpu_meeting, "SHAPES", [("Elman", 5)])
    swept = gpu_meeting._swept
    turns = iter(range(99))

    def otherwise(*given):
        turn = next(turns)
        return [t + (turn == 4) for t in swept(*given)]

    monkeypatch.setattr(gpu_meeting, "_swept", otherwise)
    assert gpu_meeting.largest_error(torch.device("cpu")) == float("inf")


@pytest.mark.parametrize(
    ("error", "many", "why"), [(0.01, True, "at the same time"), (0.3, False, "an error of 0.3")]
)
def test_the_process_says_what_was_wrong(error, many, why, monkeypatch):
    monkeypatch.setattr(gpu_meeting.sys, "argv", ["", "cpu"])
    monkeypatch.setattr(gpu_meeting, "largest_error", lambda device: error)
    monkeypatch.setattr(gpu_meeting, "too_large", lambda: many)
    with pytest.raises(SystemExit, match=why):
        gpu_meeting._main()
