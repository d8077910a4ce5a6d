"""`throughtime check` and `throughtime treat`, as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from throughtime import diagnosis

from .conftest import refused

MODEL = """
import torch
from torch import nn

def build(kind=nn.LSTM, T=60):
    model, x = nn.Sequential(), torch.randn(T, 4, 3)
    model.rnn = kind(3, 16)
    return model, x, lambda model, x: model.rnn(x)[0][-1].pow(2).mean()

def short():
    return build(T=3)

def plain():
    return build(nn.RNN)

def fails():
    model, x, _ = build()
    return model, x, lambda model, x: 1 / 0

def train(model, updates):
    with open("calls", "a") as file:
        file.write(str(updates))
    return float(model.rnn.bias_ih_l0[16:32].min() > -1e-6)

def stopped(model, updates):
    raise KeyboardInterrupt

def outside():
    model, x, losses = build()
    return model, x, lambda _, x: losses(model, x)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "m.py").write_text(MODEL)
    return tmp_path


class Found:
    """A finding as the contract has it."""

    layer, what, remedy, evidence, follows = "rnn.l0", "It does not reach.", "Use chrono.", (), None
    fix = "chrono"

    def __init__(self, severity: str, code: str = "vanishes") -> None:
        self.severity, self.code = severity, code

    def to_dict(self) -> dict[str, str]:
        return {"code": self.code, "severity": self.severity}


@pytest.fixture
def examined(monkeypatch):
    """Put findings in the place of what `tt.examine` would find."""
    asked = {}

    def put(*found: Found) -> dict[str, object]:
        def examine(flow, *, lag=None):
            asked.update(lag=lag, layers=list(flow))
            return list(found)

        monkeypatch.setattr(diagnosis, "examine", examine, raising=False)
        return asked

    return put


# --- check -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("severities", "code", "summary"),
    [
        ((), 0, "Nothing was found."),
        (("note",), 0, "1 note"),
        (("warning", "note"), 1, "1 warning, 1 note"),
        (("error", "error"), 1, "2 errors"),
    ],
)
def test_check_ends_with_1_on_an_error_or_a_warning(
    run, folder, examined, severities, code, summary
):
    asked = examined(*map(Found, severities))
    ended, out, _ = run("check", "m.py:build", "--lag", "50")
    assert ended == code and asked == {"lag": 50, "layers": ["rnn.l0"]}
    assert summary in out.splitlines()
    assert ("throughtime treat m.py:build --lag 50" in out) == bool(code)
    for severity in severities:
        assert f"{severity}: vanishes in rnn.l0" in out
    assert ("Use chrono." in out) == bool(severities)
    assert ("    tt.remedies.chrono_(model.rnn, longest=50)" in out) == bool(severities)


def test_check_as_json(run, folder, examined):
    examined(Found("warning"))
    code, out, _ = run("check", "m.py:build", "--json")
    found = json.loads(out)
    assert code == 1 and found["layers"] == ["rnn.l0"]
    assert found["findings"] == [{"code": "vanishes", "severity": "warning"}]


@pytest.mark.parametrize("command", ["check", "treat"])
@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("m.py", ("FILE.py:FUNCTION",)),
        ("no.py:build", ("no.py",)),
        ("m.py:nothing", ("it has", "build")),
        ("m.py:fails", ("ZeroDivisionError", "m.py, line")),
    ],
)
def test_what_cannot_be_used_is_one_line(run, folder, examined, command, target, words):
    examined()
    refused(run(command, target), *words)


# --- treat -----------------------------------------------------------------------------------


def test_treat_prints_the_table_and_the_line_to_paste(run, folder):
    code, out, err = run("treat", "m.py:build", "--only", "chrono, orthogonal", "--lag", "50")
    lines = out.splitlines()
    assert code == 0 and err == ""
    assert lines[0].startswith("gradient 50 steps back (asked for)")
    assert lines[-1] == "chrono_(model.rnn, longest=50)"
    assert max(map(len, lines)) <= 80


def test_treat_writes_a_page(run, folder):
    code, _, err = run("treat", "m.py:plain", "--only", "gated-cell", "--html", "page.html")
    page = (folder / "page.html").read_text()
    assert code == 0 and "page.html" in err
    assert "model.rnn = gated(model.rnn, longest=59)" in page and "What helps: gated-cell" in page


def test_treat_trains_and_goes_on_from_what_was_finished(run, folder):
    named = ("treat", "m.py:build", "--only", "chrono", "--train", "train", "--seeds", "2")
    for resumed in range(2):
        code, out, err = run(*named, "--updates", "3", "--resume", "kept", "--json")
        rows = json.loads(out)["rows"]
        assert code == 0 and err == ""
        assert [row["scores"] for row in rows] == [[0.0, 0.0], [1.0, 1.0]]
        assert (folder / "calls").read_text() == "3" * 4, f"trained again: {resumed}"
    refused(run(*named, "--updates", "4", "--resume", "kept"), "updates was 3 there and is 4 now")
    refused(run("treat", "m.py:build", "--resume", "kept"), "give train= with it")
    refused(run("treat", "m.py:build", "--train", "no"), "m.py has no no", "train")


def test_treat_says_how_to_go_on_after_ctrl_c(run, folder):
    code, out, err = run("treat", "m.py:build", "--only", "chrono", "--train", "stopped",
                         "--resume", "kept")  # fmt: skip
    assert code == 1 and "interrupted" in out and "The same command goes on from here." in err


def test_treat_as_json(run, folder):
    code, out, _ = run("treat", "m.py:build", "--only", "chrono", "--json")
    found = json.loads(out)
    assert code == 0 and found["best"] == "chrono" and found["version"] == 1
    assert found["code"].endswith("chrono_(model.rnn, longest=59)")


@pytest.mark.parametrize(("target", "code"), [("m.py:build", 1), ("m.py:short", 0)])
def test_treat_ends_with_1_where_it_is_needed_and_nothing_helps(run, folder, target, code):
    ended, out, _ = run("treat", target, "--only", "orthogonal")
    assert ended == code
    assert ("none of these helps" if code else "none needed") in out


def test_treat_shows_what_was_finished_after_ctrl_c(run, folder, monkeypatch):
    from throughtime.remedies import trial

    measure, calls = trial.measured_reach, 0

    def stopped(*given):
        nonlocal calls
        calls += 1
        if calls > 2:
            raise KeyboardInterrupt
        return measure(*given)

    monkeypatch.setattr(trial, "measured_reach", stopped)
    code, out, _ = run("treat", "m.py:build")
    assert code == 1 and "chrono" in out and "interrupted" in out and "orthogonal" not in out


def test_treat_refuses_in_one_line(run, folder):
    refused(run("treat", "m.py:build", "--only", "nope"), "only must be of", "'nope'")
    refused(run("treat", "m.py:build", "--lag", "500"), "more than 60 steps")
    refused(run("treat", "m.py:outside"), "must use its argument")
    refused(run("treat", "m.py:build", "--html", "no/page.html"), "no")
    assert torch.is_grad_enabled()
