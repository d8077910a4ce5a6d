"""A training that is stopped or killed leaves what can be gone on from, and nothing else."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from throughtime.cli.stopping import Stop
from throughtime.train import Language
from throughtime.train.checkpoint import load
from throughtime.train.language import CONTENT

from .conftest import SMALL, TEXT

TRAIN = ["train", "--text", "text.txt", "--cell", "gru", *SMALL, "--updates", "20"]


@pytest.fixture
def signalled(monkeypatch):
    """Send a signal to this very process after an update, or while the sample is written."""

    def send(which: signal.Signals, after: int) -> None:
        step = Language.step

        def stepped(self: Language) -> float:
            loss = step(self)
            if self.updates == after:
                signal.raise_signal(which)
            return loss

        monkeypatch.setattr(Language, "step", stepped)

    return send


@pytest.mark.parametrize(("which", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_the_training_with_a_checkpoint_and_advice(
    run, tmp_path: Path, signalled, which: signal.Signals, code: int
):
    signalled(which, 7)
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    ended, out, err = run(*TRAIN)
    assert ended == code and f"Stopped by {which.name} after update 7" in err
    assert "A loss reaches" in out and "--resume --updates 20" in out
    assert load(tmp_path / "checkpoints" / "text-gru.pt", CONTENT)["updates"] == 7
    assert not (tmp_path / "throughtime-train.html").exists()
    assert before == [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]


def test_what_was_stopped_goes_on_as_if_it_had_not_been(run, tmp_path: Path, signalled):
    whole = json.loads(run(*TRAIN, "--json", "--checkpoint", "whole.pt")[1])
    signalled(signal.SIGTERM, 7)
    stopped = json.loads(run(*TRAIN, "--json", "--checkpoint", "a.pt")[1])
    assert (stopped["stopped"], stopped["updates"], stopped["report"]) == ("SIGTERM", 7, None)
    assert whole["stopped"] is None and whole["advice"]["commands"].keys() == {"resume", "change"}
    signalled(signal.SIGTERM, -1)
    on = json.loads(run(*TRAIN, "--json", "--checkpoint", "a.pt", "--resume")[1])
    assert on["sample"] == whole["sample"]
    assert on["history"][-1]["validation_loss"] == whole["history"][-1]["validation_loss"]


def test_sigterm_after_the_training_ends_at_once_with_0(run, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(Language, "sample", lambda *_: signal.raise_signal(signal.SIGTERM))
    code, out, err = run(*TRAIN)
    assert (code, out) == (0, "") and "Traceback" not in err
    assert load(tmp_path / "checkpoints" / "text-gru.pt", CONTENT)["updates"] == 20


def test_a_second_ctrl_c_ends_at_once():
    with Stop() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop() and stop.code == 130
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


# A process that has loaded everything and lends itself: for each line, a folder, a child of it
# trains there until it is killed. Starting Python and torch each time would take ten times as long.
LENDER = """
import os, pathlib, sys, time
import torch
from throughtime import cli
cli.app()

class Still:  # an optimizer that does nothing: a true one loads torch's compiler first
    def __init__(self, parameters, rate): ...
    def zero_grad(self, set_to_none): ...
    def step(self): ...
    def state_dict(self): return {}

torch.optim.Adam = Still

def slowly(path, data):  # a slow disk: most kills fall into a write
    with open(path, "wb", buffering=0) as file:
        for start in range(0, len(data), 1000):
            file.write(data[start : start + 1000])
            time.sleep(0.001)

pathlib.Path.write_bytes = slowly
for line in sys.stdin:
    child = os.fork()
    if not child:
        os.chdir(line.strip())
        os.dup2(os.open("log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
        os.dup2(1, 2)
        sys.argv = ["throughtime", *sys.argv[1:]]
        cli.main()
    print(child, flush=True)
    os.waitpid(child, 0)
    print("gone", flush=True)
"""


def test_a_killed_training_leaves_a_whole_checkpoint_and_its_parts_go_at_the_next_start(
    run, tmp_path: Path
):
    kept = tmp_path / "checkpoints" / "text-gru.pt"
    endless = [*TRAIN[:-1], "1000000", "--every", "1", "--overwrite"]
    chance, left = random.Random(0), 0
    with subprocess.Popen(
        [sys.executable, "-c", LENDER, *endless],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as lender:
        assert lender.stdin is not None and lender.stdout is not None
        for _ in range(5):
            kept.unlink(missing_ok=True)
            print(tmp_path, file=lender.stdin, flush=True)
            child = int(lender.stdout.readline())
            end = time.monotonic() + 20
            while not kept.exists() and time.monotonic() < end:
                time.sleep(0.002)
            time.sleep(chance.uniform(0, 0.05))
            os.kill(child, signal.SIGKILL)
            assert lender.stdout.readline() == "gone\n"
            assert load(kept, CONTENT)["updates"] > 0, (tmp_path / "log").read_text()
            left += len(list(kept.parent.glob(".*.part")))
    assert left > 0, "no kill fell into a write"
    (tmp_path / ".throughtime-train.html.0123abcd.part").touch()
    assert run(*TRAIN, "--overwrite")[0] == 0
    assert not list(tmp_path.glob("**/.*.part"))
    assert TEXT in (tmp_path / "text.txt").read_text()
