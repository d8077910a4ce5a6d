"""Lines of a training, read while they are written: cut anywhere, begun anew, not there yet."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest

from throughtime.errors import FileError
from throughtime.watch import Found, Record, read
from throughtime.watch.following import Following
from throughtime.watch.sparkline import as_blocks
from throughtime.watch.training_run import POINTS, Series, TrainingRun


def line(step: int, *found: str, layer: str = "rnn.l0") -> bytes:
    findings = [{"code": c, "severity": "warning", "layer": layer, "what": "é"} for c in found]
    values = {f"throughtime/{layer}/horizon": step / 2, f"throughtime/{layer}/growth": None}
    data = {"version": 1, "step": step, "time": 1.5, "values": values, "findings": findings}
    text = json.dumps({**data, "profile": {layer: [1.0, 0.5, None]}}, ensure_ascii=False)
    return text.encode() + b"\n"


def steps(records: list[Record]) -> list[int]:
    return [record.step for record in records]


def test_a_file_written_byte_by_byte_gives_each_line_once(tmp_path):
    file, content = tmp_path / "run.jsonl", b"".join(line(n, "vanishes") for n in range(6))
    following, found, generator = Following(file), [], random.Random(0)
    assert following.new() == [] and not following.there
    with file.open("ab", buffering=0) as writer:
        at = 0
        while at < len(content):
            end = at + generator.randrange(1, 90)
            writer.write(content[at:end])
            at = end
            found += following.new()
    assert steps(found) == list(range(6)) and following.skipped == 0 and not following.cut
    assert found[0].findings[0].what == "é"


def test_a_finding_of_somebody_elses_is_taken_as_it_can_be_shown():
    one = Record.from_line(b'{"version": 1, "step": 1, "findings": [{"code": 3, "layer": [1]}]}')
    assert one.findings == (Found("3", "note", "[1]", ""),) and one.time != one.time
    assert Record.from_dict(json.loads(one.line())).findings == one.findings


def test_a_stretch_that_holds_no_record_does_not_end_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr("throughtime.watch.following.MOST", 1000)
    (tmp_path / "run.jsonl").write_bytes(line(1) + b"none\n" * 1000 + line(2))
    history = read(tmp_path / "run.jsonl")
    assert [record.step for record in history] == [1, 2] and history.skipped == 1000


@pytest.mark.parametrize("cut", range(0, len(line(7)), 11))
def test_a_file_cut_anywhere_gives_its_whole_lines(tmp_path, cut):
    file = tmp_path / "run.jsonl"
    file.write_bytes(line(5) + line(7)[:cut])
    following = Following(file)
    assert steps(following.new()) == [5] and following.cut == (cut > 0)
    assert list(following.rest()) == [] and following.skipped == 0


def test_the_last_line_needs_no_end_once_nothing_follows(tmp_path):
    file = tmp_path / "run.jsonl"
    file.write_bytes(line(5) + line(7)[:-1])
    following = Following(file)
    assert steps(following.new()) == [5] and steps(list(following.rest())) == [7]


@pytest.mark.parametrize(
    "bad",
    [
        b"garbage",
        b"[1]",
        b"null",
        b"{}",
        b'{"version": 2, "step": 1}',
        b'{"version": 1}',
        b'{"version": 1, "step": "x"}',
        b'{"version": 1, "step": 1, "values": [1]}',
        b'{"version": 1, "step": 1, "values": {"a": "b"}}',
        b'{"version": 1, "step": 1, "findings": [3]}',
        b'{"version": 1, "step": 1, "profile": {"a": 3}}',
        b'{"version": 1, "step": 1, "time": 1e300}',
        b'{"version": 1, "step": 1e999}',
        b"\xff\xfe",
        b"\x00\x00\x00",
        b"[" * 100_000,
    ],
)
def test_a_line_that_is_none_is_counted_and_left_out(tmp_path, bad):
    file = tmp_path / "run.jsonl"
    file.write_bytes(line(1) + bad + b"\n" + b"\n" + line(2))
    following = Following(file)
    assert steps(following.new()) == [1, 2] and following.skipped == 1


def test_a_file_that_begins_anew_is_read_from_its_beginning(tmp_path):
    file = tmp_path / "run.jsonl"
    file.write_bytes(line(1) + line(2) + line(3)[:9])
    following = Following(file)
    assert steps(following.new()) == [1, 2]
    file.write_bytes(line(4))  # emptied and written again, shorter
    assert steps(following.new()) == [4] and following.begun == 1
    file.write_bytes(line(5) + line(6) + line(7))  # longer, but not the same beginning
    assert steps(following.new()) == [5, 6, 7] and following.begun == 2
    (tmp_path / "other").write_bytes(line(8))
    os.replace(tmp_path / "other", file)  # another file of its name
    assert steps(following.new()) == [8] and following.begun == 3
    (tmp_path / "other").write_bytes(line(8) + line(9))
    os.replace(tmp_path / "other", file)  # another, with the same beginning
    assert steps(following.new()) == [8, 9] and following.begun == 4
    file.unlink()
    assert following.new() == [] and not following.there
    file.write_bytes(line(8) + line(9))
    assert steps(following.new())[-1] == 9 and following.there


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(FileError, match="cannot read"):
        Following(tmp_path).new()


def run_of(*lines: bytes) -> TrainingRun:
    run = TrainingRun()
    for one in lines:
        run.take(Record.from_line(one))
    return run


def test_a_run_knows_since_when_a_finding_is_there_and_which_are_gone():
    run = run_of(line(1, "vanishes"), line(2, "vanishes", "saturated"), line(3, "saturated"))
    assert [(f.code, f.since) for f in run.present] == [("saturated", 2)]
    assert [(f.code, f.since, f.last) for f in run.gone] == [("vanishes", 1, 2)]
    run.take(Record.from_line(line(4, "vanishes")))
    assert [(f.code, f.since) for f in run.present] == [("vanishes", 4)]


def test_a_training_that_was_resumed_goes_on_from_there():
    run = run_of(line(1), line(2), line(3, "vanishes"), line(2), line(3))
    assert run.layers["rnn.l0"]["horizon"].steps == [1, 2, 3] and not run.gone


def test_a_finding_that_a_resumed_training_has_no_more_was_there_until_then():
    run = run_of(line(1, "vanishes"), line(2, "vanishes"), line(3, "vanishes"), line(2))
    assert [(f.code, f.since, f.last) for f in run.gone] == [("vanishes", 1, 1)]
    run = run_of(line(1, "vanishes"), line(2, "vanishes"), line(3), line(2, "vanishes"))
    assert [(f.code, f.since) for f in run.present] == [("vanishes", 1)]


def test_a_long_run_stays_small_and_keeps_its_last_point():
    series = Series()
    for step in range(10 * POINTS):
        series.add(step, float(step))
        assert series.steps[-1] == step and series.last == step
    assert len(series.steps) <= POINTS and series.steps[0] == 0
    gaps = {b - a for a, b in zip(series.steps[:-2], series.steps[1:-1], strict=True)}
    assert len(gaps) == 1


def test_blocks_show_the_course():
    assert as_blocks([0.0] * 4, 4) == "▁▁▁▁" and as_blocks([], 5) == ""
    assert as_blocks([1, 1e-3, 0, float("inf")], 4, logarithmic=True) == "█▅▁"
    assert len(as_blocks(list(range(1000)), 30)) == 30


def test_a_record_goes_through_json_as_the_monitor_writes_it(tmp_path: Path):
    record = Record.from_line(line(3, "vanishes"))
    assert record.profile["rnn.l0"][:2] == (1.0, 0.5)
    assert record.values["throughtime/rnn.l0/horizon"] == 1.5
    growth = record.values["throughtime/rnn.l0/growth"]
    assert growth != growth and record.time == 1.5
