"""`throughtime watch`, as a user meets it: in a terminal, in a pipe, on a page."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from throughtime.cli import watch as watch_module

from .conftest import refused


def line(step: int, **more: object) -> str:
    layers = ("encoder.lstm.l0", "encoder.lstm.l0_reverse")
    values = {f"throughtime/{name}/horizon": step + 1.0 for name in layers}
    values |= {f"throughtime/{name}/coverage": 0.5 for name in layers}
    found = [{"code": "vanishes", "severity": "warning", "layer": layers[0], "what": "It does."}]
    data = {"version": 1, "step": step, "time": time.time(), "values": values, "findings": found}
    return json.dumps({**data, "profile": {layers[0]: [1.0, 0.1, 1e-9]}, **more}) + "\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.jsonl"
    path.write_text("".join(map(line, range(30))) + "garbage\n" + line(30)[:50])
    return path


def test_once_shows_the_run_within_80_columns(run, file, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = run("watch", "run.jsonl", "--once")
    assert code == 0 and err == "" and max(map(len, out.splitlines())) <= 80
    assert "step 29" in out and "30 records" in out and "1 line that is no record" in out
    assert "encoder.lstm.l0_reverse" in out and "horizon over training" in out and "█" in out
    assert "warning: vanishes in encoder.lstm.l0 since step 0" in out


def test_once_as_json(run, file):
    code, out, _ = run("watch", "run.jsonl", "--once", "--json")
    found = json.loads(out)
    assert code == 0 and found["step"] == 29 and found["skipped"] == 1 and found["cut"]
    assert found["layers"]["encoder.lstm.l0"]["horizon"] == 30.0
    assert found["findings"][0]["since"] == 0


def test_what_cannot_be_read_or_written_is_one_line(run, file, tmp_path):
    refused(run("watch", "nothing.jsonl", "--once"), "there is no file")
    refused(run("watch", ".", "--once"), "cannot read")
    refused(run("watch", "run.jsonl", "--once", "--html", "no/page.html"), "does not exist")


def test_a_page_is_written_once(run, file, tmp_path):
    code, _, _ = run("watch", "run.jsonl", "--once", "--html", "page.html")
    page = (tmp_path / "page.html").read_text()
    assert code == 0 and "encoder.lstm.l0_reverse" in page and "location.reload" not in page


def follow(monkeypatch, until: int) -> None:
    """Let Ctrl-C come after so many looks at the file."""
    looks = []

    def sleep(_: float) -> None:
        looks.append(1)
        if len(looks) >= until:
            raise KeyboardInterrupt

    monkeypatch.setattr(watch_module.time, "sleep", sleep)


def test_in_a_pipe_each_record_is_a_line_and_ctrl_c_ends_it(run, file, monkeypatch):
    follow(monkeypatch, 3)
    code, out, err = run("watch", "run.jsonl")
    lines = out.splitlines()
    assert code == 0 and len(lines) == 30 and "Following run.jsonl" in err
    assert lines[4].startswith("step 4  encoder.lstm.l0: horizon 5, covered 50 %")
    assert lines[4].endswith("warning: vanishes in encoder.lstm.l0")
    follow(monkeypatch, 3)
    code, out, err = run("watch", "run.jsonl", "--json")
    assert code == 0 and err == "" and len(list(map(json.loads, out.splitlines()))) == 30


def test_it_waits_for_a_file_and_says_so(run, monkeypatch):
    follow(monkeypatch, 3)
    code, out, err = run("watch", "later.jsonl")
    assert code == 0 and out == "" and err.count("Waiting for later.jsonl") == 1


@pytest.fixture
def hears_ctrl_c():
    """What a shell starts in the background ignores SIGINT; a test there must not."""
    was = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, was)


@pytest.mark.usefixtures("hears_ctrl_c")
def test_a_real_ctrl_c_ends_it_with_0_and_the_page_is_whole_all_the_time(run, tmp_path):
    file, page, seen = tmp_path / "later.jsonl", tmp_path / "page.html", []

    def write() -> None:
        try:
            for step in range(3):
                with file.open("a") as writer:
                    for half in (line(step)[:40], line(step)[40:]):
                        writer.write(half)
                        writer.flush()
                end = time.monotonic() + 20
                while time.monotonic() < end:
                    text = page.read_text() if page.exists() else ""
                    if f"Step {step}<" in text:
                        seen.append(text)
                        break
                    time.sleep(0.01)
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    writing = threading.Thread(target=write)
    writing.start()
    code, out, _ = run("watch", "later.jsonl", "--html", "page.html", "--interval=0.2")
    writing.join()
    assert code == 0 and [text.split()[1] for text in out.splitlines()] == ["0", "1", "2"]
    assert len(seen) == 3 and all(text.endswith("</html>\n") for text in seen)
    assert all("location.reload" in text for text in seen)
    assert "Step 2<" in page.read_text() and "location.reload" not in page.read_text()
    assert not list(tmp_path.glob(".*.part"))


def test_in_a_terminal_it_is_drawn_anew(run, file, monkeypatch):
    from rich.console import Console

    def terminal() -> Console:
        return Console(force_terminal=True, width=80, highlight=False)

    monkeypatch.setattr(watch_module, "results", terminal)
    follow(monkeypatch, 3)
    code, out, _ = run("watch", "run.jsonl")
    assert code == 0 and "30 records" in out and "\x1b[" in out
