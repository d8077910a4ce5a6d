"""What a monitor writes: whole lines, whatever happens; and who is told of findings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import types
from collections.abc import Mapping

import numpy as np
import pytest

import throughtime as tt
from throughtime.errors import FileError, InputTypeError, InputValueError, LayerNotFoundError
from throughtime.watch import Alarm, Found, History, Record, read
from throughtime.watch.alarms import Alarms
from throughtime.watch.raster import grid, raster
from throughtime.watch.to import loggers
from throughtime.watch.to.background import Background
from throughtime.watch.to.tensorboard import MAP_EVERY

from .models import Model, train

NAME = "throughtime/l0/horizon"
VANISHES = Found("vanishes", "warning", "l0", "It vanishes.")


def record(step: int, value: float = 1.0, *found: Found, lags: int = 3) -> Record:
    return Record(step, float(step), {NAME: value}, found, {"l0": [0.5**k for k in range(lags)]})


def test_a_line_has_the_fields_that_readers_rely_on(tmp_path):
    path = tmp_path / "run.jsonl"
    model = Model(last=True)
    train(model, tt.Monitor(model, every=2, to=str(path), lag=20), 3)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 2]
    for line in lines:
        assert list(line) == ["version", "step", "time", "values", "findings", "profile"]
        assert line["version"] == 1 and abs(line["time"] - time.time()) < 60
        assert line["values"].keys() == {
            f"throughtime/rnn.l{n}/{q}" for n in (0, 1) for q in tt.watch.quantities.QUANTITIES
        }
        assert line["findings"] and all(
            list(found) == ["code", "severity", "layer", "what"] for found in line["findings"]
        )
        assert line["profile"]["rnn.l0"][0] == 1.0
    assert [r.to_dict() for r in read(path)] == lines


def test_nan_and_inf_are_null_in_json_and_nan_when_read(tmp_path):
    path = tmp_path / "run.jsonl"
    (to,) = loggers(path)
    to.write(Record(0, 0.0, {NAME: np.inf}, (), {"l0": [1.0, np.nan]}), History())
    assert "null" in path.read_text() and "Infinity" not in path.read_text()
    (found,) = read(path)
    assert np.isnan(found.values[NAME]) and np.isnan(found.profile["l0"][1])


@pytest.mark.parametrize("cut", [1, 20, -1])
def test_a_line_that_was_cut_costs_itself_alone(tmp_path, cut):
    path = tmp_path / "run.jsonl"
    whole = record(0).line()
    path.write_bytes(whole + record(1).line()[:cut])
    history = read(path)  # while it is still so
    assert [r.step for r in history] == ([0, 1] if cut == -1 else [0])
    (to,) = loggers(path)
    to.write(record(2), history)
    to.close()
    to.write(record(3), history)
    assert [r.step for r in read(path)][-2:] == [2, 3]
    assert read(path).skipped == (cut != -1)


def test_a_full_disk_is_warned_of_once_and_stops_nothing():
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    model = Model()
    monitor = tt.Monitor(model, every=1, to="/dev/full")
    with pytest.warns(tt.MonitorWarning, match="JSON lines failed at step 0: OSError") as caught:
        train(model, monitor, 3)
    assert len(caught) == 1 and len(monitor.history) == 3


def test_a_disk_that_takes_a_part_of_a_line_keeps_the_next_one_whole(tmp_path, monkeypatch):
    path, write = tmp_path / "run.jsonl", os.write
    (to,) = loggers(path)
    monkeypatch.setattr(os, "write", lambda file, line: write(file, line[:9]))
    with pytest.raises(FileError, match="only a part of a line"):
        to.write(record(0), History())
    monkeypatch.setattr(os, "write", write)
    to.write(record(1), History())
    assert [r.step for r in read(path)] == [1] and read(path).skipped == 1


# One process after the other writes as fast as it can, and is killed.
WRITERS = """
import os, random, signal, sys, time
from throughtime.watch import History, Record
from throughtime.watch.to import loggers
for n in range(8):
    child = os.fork()
    if child:
        time.sleep(random.Random(n).uniform(0.01, 0.04))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        continue
    (to,) = loggers(sys.argv[1])
    for step in range(10**9):
        values = {"throughtime/l0/horizon": float(n)}
        to.write(Record(n * 10**6 + step, 0.0, values, (), {"l0": [0.5] * 500}), History())
"""


def test_every_whole_line_is_readable_after_a_kill(tmp_path):
    path = tmp_path / "run.jsonl"
    subprocess.run([sys.executable, "-W", "ignore", "-c", WRITERS, path], check=True)
    (to,) = loggers(path)
    to.write(record(10**8), History())
    history, lines = read(path), path.read_bytes().splitlines()
    assert history.skipped <= 8 and json.loads(lines[-1])["step"] == 10**8
    assert len({r.values[NAME] for r in history}) > 4  # of so many writers something is there


def test_a_target_that_is_none_of_these_is_refused(tmp_path):
    for target in (3, object(), types.ModuleType("os")):
        with pytest.raises(InputTypeError, match=r"^to= must be a path .*; got \w+\.$"):
            tt.Monitor(Model(), to=target)
    with pytest.raises(FileError, match="does not exist; make it first"):
        tt.Monitor(Model(), to=[print, tmp_path / "no" / "run.jsonl"])
    with pytest.raises(FileError, match="is a folder"):
        tt.Monitor(Model(), to=tmp_path)
    with pytest.raises(FileError, match="there is no file"):
        read(tmp_path / "none.jsonl")


class Writer:
    """A SummaryWriter that notes what is written."""

    def __init__(self):
        self.scalars, self.texts, self.images = [], [], []

    def add_scalar(self, *row):
        self.scalars.append(row)

    def add_text(self, *row):
        self.texts.append(row)

    def add_image(self, *row, dataformats):
        self.images.append((*row, dataformats))

    def flush(self):
        pass


def test_a_writer_gets_numbers_findings_that_change_and_the_map_now_and_then():
    writer, history = Writer(), History()
    (to,) = loggers(writer)
    for step in range(MAP_EVERY + 1):
        found = (VANISHES,) if step > 2 else ()
        history.add(record(step, np.nan if step == 1 else 2.0, *found))
        to.write(history[-1], history)
    assert [row[2] for row in writer.scalars] == [0, *range(2, MAP_EVERY + 1)]
    assert [(row[1], row[2]) for row in writer.texts] == [
        ("nothing found", 0),
        ("- **warning** vanishes: It vanishes.", 3),
    ]
    assert len(writer.images) == 1
    to.close()
    to.close()
    assert [row[2] for row in writer.images] == [MAP_EVERY - 1, MAP_EVERY]
    assert writer.images[0][0] == "throughtime/l0/gradient by lag"
    assert writer.images[0][1].shape[2] == 3 and writer.images[0][3] == "HWC"


def test_a_module_that_is_known_by_name_is_not_imported():
    assert not {"wandb", "mlflow", "tensorboard", "lightning", "ignite"} & {
        name for name in sys.modules if name.startswith("throughtime.watch.to.")
    }
    wandb, mlflow = types.ModuleType("wandb"), types.ModuleType("mlflow")
    assert [to.name for to in loggers([wandb, mlflow])] == ["Weights & Biases", "MLflow"]
    wandb.run, mlflow.active_run = None, lambda: None  # pyright: ignore
    model = Model()
    with pytest.warns(tt.MonitorWarning) as caught:
        train(model, tt.Monitor(model, to=[wandb, mlflow]), 1)
    assert [str(w.message).partition(".")[0] for w in caught] == [
        "Weights & Biases failed at step 0: InputValueError: wandb has no run; call wandb",
        "MLflow failed at step 0: InputValueError: mlflow has no run; call mlflow",
    ]


def test_work_beside_the_training_is_done_in_order_and_its_errors_come_back(monkeypatch):
    done, background = [], Background()
    for n in range(5):
        background.put(lambda n=n: done.append(n))
    background.close()
    assert done == [0, 1, 2, 3, 4]
    background.put(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        background.close()
    background.close()
    monkeypatch.setattr("throughtime.watch.to.background.PATIENCE", 0.05)
    background.put(lambda: time.sleep(0.3))
    with pytest.raises(FileError, match="some records had not been sent"):
        background.close()


def test_a_history_keeps_its_ends_and_its_size(tmp_path):
    history = History(most=10)
    for step in range(1000):
        history.add(record(step))
    steps = [r.step for r in history]
    assert len(steps) <= 10 and steps[0] == 0 and steps[-1] == 999
    assert steps == sorted(set(steps)) and steps[-3:] == [997, 998, 999]
    again = History()
    again.load_state_dict(json.loads(json.dumps(history.state_dict())))
    assert [r.step for r in again] == steps


def test_steps_that_are_trained_again_take_the_place_of_what_they_were(tmp_path):
    path = tmp_path / "run.jsonl"
    path.write_bytes(b"".join(record(step, value).line() for step, value in
                              ((0, 1.0), (100, 1.0), (200, 1.0), (100, 2.0))))  # fmt: skip
    assert read(path).series("l0", "horizon") == ([0, 100], [1.0, 2.0])


@pytest.mark.parametrize(
    "data", [3, {}, {"version": 2}, {"version": 1}, {"version": 1, "step": "x", "time": 0}]
)
def test_what_is_no_record_is_refused(data):
    with pytest.raises(InputValueError, match="a monitor's record has"):
        Record.from_dict(data)


def test_an_alarm_rings_when_a_finding_comes_and_when_it_goes():
    heard: list[Alarm] = []
    alarms = Alarms(heard.append)
    note, error = Found("underflow", "note", "l0", "."), Found("loss-nonfinite", "error", None, ".")
    for step, found in enumerate([(), (VANISHES, note), (VANISHES,), (error,), (error, VANISHES)]):
        alarms.ring(alarms.hear(step, found))
    assert [(a.step, a.code, a.layer, a.gone) for a in heard] == [
        (1, "vanishes", "l0", False),
        (3, "loss-nonfinite", None, False),
        (3, "vanishes", "l0", True),
        (4, "vanishes", "l0", False),
    ]
    later = Alarms(heard.append)
    later.load_state_dict(json.loads(json.dumps(alarms.state_dict())))
    assert later.hear(5, (error, VANISHES)) == []


def test_a_monitor_rings_at_the_step():
    heard: list[Alarm] = []
    model = Model(last=True)
    monitor = tt.Monitor(model, every=2, alarm=heard.append)
    train(model, monitor, 3)
    assert {(a.step, a.code, a.gone) for a in heard} >= {(0, "vanishes", False)}
    assert all(a.step == 0 for a in heard)


def test_the_map_has_lag_0_at_the_bottom_and_time_to_the_right():
    history = History([record(0, lags=2), record(100, lags=4)])
    steps, values = grid(history, "l0")
    assert steps == [0, 100] and values.shape == (4, 2)
    assert np.isnan(values[2:, 0]).all() and values[3, 1] == pytest.approx(3 * np.log10(0.5))
    image = raster(history, "l0")
    assert image.dtype == np.uint8 and image.shape[2] == 3 and min(image.shape[:2]) >= 192
    grey = (160, 160, 160)
    assert tuple(image[0, 0]) == grey != tuple(image[-1, 0]) == tuple(image[-1, -1])
    assert raster(History(), "l0").shape == (192, 192, 3)


def test_the_figure_has_each_layers_horizon_and_one_map():
    model = Model()
    monitor = tt.Monitor(model, every=1)
    train(model, monitor, 3)
    figure = monitor.figure("rnn.l1").to_dict()
    kinds = [(trace["type"], trace.get("name")) for trace in figure["data"]]
    assert kinds == [("scatter", "rnn.l0"), ("scatter", "rnn.l1"), ("heatmap", None)]
    assert list(figure["data"][0]["x"]) == [0, 1, 2]
    texts = [note["text"] for note in figure["layout"]["annotations"]]
    assert "rnn.l1: gradient by lag" in texts
    with pytest.raises(LayerNotFoundError, match=r"there is rnn\.l0, rnn\.l1"):
        monitor.figure("lstm")


def test_records_can_be_read_without_the_monitor():
    assert isinstance(Record.from_dict(record(3).to_dict()).values, Mapping)
