"""The command as a user meets it: what is printed, what is written, and the exit code."""

from __future__ import annotations

import json
import math
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from throughtime.demo import Plan
from throughtime.demo.experiment import Curriculum
from throughtime.demo.recall import Budget

from .conftest import SMALL, TEXT, refused

EXAMPLE = Path(__file__).parents[2] / "examples" / "profile_lstm.py"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nonsense"], ("'nonsense'", "See throughtime --help.")),
        (["demo", "--nonsense"], ("--nonsense", "See throughtime demo --help.")),
        (["train"], ("--text",)),
        (["check"], ("FILE.py:FUNCTION",)),
        (["train", "--text", "text.txt", "--updates", "0"], ("--updates", "1")),
        (["train", "--text", "text.txt", "--cell", "cnn"], ("'cnn'", "'lstm'")),
        (["train", "--text", "text.txt", "--hidden", "many"], ("--hidden", "integer")),
    ],
)
def test_wrong_usage_is_one_line(run, arguments, words):
    refused(run(*arguments), *words)


# --- train -----------------------------------------------------------------------------------


def test_train_writes_checkpoint_and_report_and_goes_on(run, tmp_path: Path):
    arguments = ["train", "--text", "text.txt", "--cell", "gru", *SMALL]
    code, out, _ = run(*arguments, "--updates", "10")
    assert code == 0 and "VANISHING" in out and "validation" in out
    assert (tmp_path / "checkpoints" / "text-gru.pt").exists()
    page = (tmp_path / "throughtime-train.html").read_text()
    assert "layer.l0" in page and "http-equiv" not in page
    refused(run(*arguments, "--updates", "10"), "--resume", "--overwrite")
    code, out, _ = run("train", "--text", "text.txt", "--cell", "gru", "--resume", "--updates",
                       "15", "--every", "5", "--json")  # fmt: skip
    found = json.loads(out)
    assert code == 0 and found["updates"] == 15 and found["settings"]["hidden"] == 12
    assert [row["updates"] for row in found["history"]] == [5, 10, 15]
    assert found["layers"]["layer.l0"]["verdict"] == "VANISHING"
    assert len(found["sample"]) == 300
    assert run(*arguments, "--updates", "1", "--overwrite", "--sample", "0")[0] == 0


def test_train_stops_at_what_is_not_finite_and_keeps_the_last_good_checkpoint(
    run, tmp_path: Path, monkeypatch
):
    from throughtime.train import Language

    step, whole = Language.step, []

    def poisoned(self: Language) -> float:
        if self.updates == 12:
            whole.append((tmp_path / "a.pt").read_bytes())
            self.model.layer.weight_hh_l0.data.fill_(math.inf)
        return step(self)

    monkeypatch.setattr(Language, "step", poisoned)
    code, out, err = run("train", "--text", "text.txt", *SMALL, "--updates", "20",
                         "--checkpoint", "a.pt")  # fmt: skip
    assert code == 1 and out == "" and "Traceback" not in err
    last = err.strip().splitlines()[-1]
    assert last.startswith("throughtime: update 13: the loss is nan; it began in the forward pass")
    assert "layer.l0 at step 1" in last and "of update 10, is a.pt" in last
    assert (tmp_path / "a.pt").read_bytes() == whole[0]
    assert not (tmp_path / "throughtime-train.html").exists()


def test_train_refuses_bad_texts(run, tmp_path: Path):
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 " * 1000)
    (tmp_path / "short.txt").write_text("too short")
    for name, word in (
        ("none.txt", "there is no text file"),
        ("empty.txt", "is empty"),
        ("latin.txt", "not UTF-8"),
        ("short.txt", "characters, too few"),
        (".", "is a folder"),
    ):
        refused(run("train", "--text", name), word)
    assert not list((tmp_path / "checkpoints").glob("*"))


def test_train_refuses_what_cannot_be_written_before_it_trains(run, tmp_path: Path, monkeypatch):
    from throughtime.train import Language

    monkeypatch.setattr(Language, "step", lambda self: pytest.fail("it trained"))
    refused(run("train", "--text", "text.txt", "--report", "none/a.html"), "none/a.html")
    refused(run("train", "--text", "text.txt", "--report", "."), "is a folder")
    refused(run("train", "--text", "text.txt", "--checkpoint", "none/a.pt"), "none/a.pt")
    for path in (".", "/dev/full"):
        refused(run("train", "--text", "text.txt", "--checkpoint", path), f"in {path}: it is no")


def test_train_tells_what_it_learned_where_the_page_does_not_fit_on_the_disk(run, tmp_path: Path):
    arguments = ["train", "--text", "text.txt", *SMALL, "--updates", "1", "--report", "/dev/full"]
    code, out, err = run(*arguments, "--json")
    assert code == 2 and "cannot write /dev/full: No space left" in err.splitlines()[-1]
    found = json.loads(out)
    assert found["report"] is None and found["updates"] == 1
    assert (tmp_path / found["checkpoint"]).exists()


def test_the_lines_that_train_ends_with_run(run, tmp_path: Path):
    start = [
        "train",
        "--text",
        "text.txt",
        "--cell",
        "rnn",
        *SMALL,
        "--updates",
        "2",
        "--clip",
        "0",
    ]
    ways = json.loads(run(*start, "--json")[1])["advice"]["commands"]
    on = json.loads(run(*shlex.split(ways["resume"])[1:], "--json")[1])
    assert on["updates"] == 4 and on["settings"]["cell"] == "rnn"
    changed = json.loads(run(*shlex.split(ways["change"])[1:], "--json")[1])
    assert changed["updates"] == 2 and changed["settings"] == {**on["settings"], "cell": "lstm"}
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


def test_train_refuses_checkpoints_of_something_else(run, tmp_path: Path):
    arguments = ["train", "--text", "text.txt", "--checkpoint", "a.pt"]
    refused(run(*arguments, "--resume"), "there is no checkpoint a.pt")
    assert run(*arguments, *SMALL, "--updates", "5")[0] == 0
    refused(run(*arguments, "--resume", "--hidden", "13"), "hidden 12, not 13")
    refused(run(*arguments, "--resume", "--cell", "gru"), "cell lstm, not gru")
    (tmp_path / "text.txt").write_text(TEXT.replace("cat", "tac"))
    refused(run(*arguments, "--resume"), "another text")
    (tmp_path / "text.txt").write_text(TEXT + "Ω")
    refused(run(*arguments, "--resume"), "does not know", "Ω")
    whole = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(whole[: len(whole) // 2])
    refused(run(*arguments, "--resume"), "truncated")
    refused(run(*arguments, "--resume", "--overwrite"), "give one of them")


# --- profile ---------------------------------------------------------------------------------

MODULE = """
import torch
from torch import nn

number = 5

def good():
    return nn.RNN(3, 4), torch.randn(6, 2, 3), lambda m, b: m(b)[0].pow(2).mean((1, 2))

def overflows():
    layer = nn.RNN(1, 1, nonlinearity="relu", bias=False)
    nn.init.constant_(layer.weight_hh_l0, 2.0)
    nn.init.constant_(layer.weight_ih_l0, 1.0)
    return layer, torch.ones(200, 1, 1), lambda m, b: m(b)[0][-1].sum()

def raises():
    raise KeyError("weights")

def losses_raise():
    return nn.RNN(3, 4), None, lambda m, b: 1 / 0

def two():
    return 1, 2

def no_model():
    return 1, 2, 3

def no_function():
    return nn.RNN(3, 4), 2, 3

def no_recurrence():
    return nn.Linear(3, 4), torch.zeros(3), lambda m, b: m(b)

def constant():
    return nn.RNN(3, 4), None, lambda m, b: torch.zeros(3)
"""


@pytest.mark.parametrize("function", ["next_word", "last_word"])
def test_profile_of_the_example(run, tmp_path: Path, function):
    code, out, _ = run("profile", f"{EXAMPLE}:{function}")
    assert code == 0 and "lstm.l0" in out and "VANISHING" in out and "eq. 9" not in out
    assert "What to change" in out or "nothing found" in out
    assert "homewas" not in out
    assert ">home<" in (tmp_path / "throughtime-profile.html").read_text()


def test_profile_as_json(run, tmp_path: Path):
    (tmp_path / "m.py").write_text(MODULE)
    code, out, _ = run("profile", "m.py:good", "--json", "--report", "r.html")
    found = json.loads(out)
    assert code == 0 and (tmp_path / "r.html").exists()
    assert len(found["layers"]["l0"]["lag_profile"]) == 7  # lags 0 to 6


def test_profile_ends_with_1_where_something_is_not_finite(run, tmp_path: Path):
    (tmp_path / "m.py").write_text(MODULE)
    code, out, _ = run("profile", "m.py:overflows", "--json")
    first = json.loads(out)["layers"]["l0"]["first_nonfinite"]
    assert code == 1
    assert (first["direction"], first["step"], first["kind"]) == ("forward", 128, "inf")


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("m.py", ["give FILE.py:FUNCTION"]),
        (":good", ["give FILE.py:FUNCTION"]),
        ("none.py:good", ["there is no file none.py"]),
        ("m.py:none", ["has no none", "good, overflows"]),
        ("m.py:number", ["number in m.py is int"]),
        ("m.py:raises", ["KeyError: 'weights'", "(m.py, line 17)"]),
        ("m.py:losses_raise", ["ZeroDivisionError", "(m.py, line 20)"]),
        ("m.py:two", ["tuple of 2", "must return (model, batch, losses)"]),
        ("m.py:no_model", ["the first", "is int"]),
        ("m.py:no_function", ["the third", "is int"]),
        ("m.py:no_recurrence", ["nothing recurrent"]),
        ("m.py:constant", ["no recurrent layer ran inside the trace"]),
        ("broken.py:good", ["broken.py cannot be loaded", "SyntaxError"]),
        ("exits.py:good", ["exits.py cannot be loaded", "SystemExit"]),
    ],
)
def test_profile_refuses_what_it_cannot_use(run, tmp_path: Path, target, words):
    (tmp_path / "m.py").write_text(MODULE)
    (tmp_path / "broken.py").write_text("def good(:\n")
    (tmp_path / "exits.py").write_text("def good(): ...\nimport sys\nsys.exit(3)\n")
    refused(run("profile", target), *words)
    assert not (tmp_path / "throughtime-profile.html").exists()


# --- demo ------------------------------------------------------------------------------------


@pytest.fixture(params=[12])
def tiny(monkeypatch, request):
    """Make --quick quicker still, with so many updates for each network."""
    whole = Plan.quick

    def quick(seed: int = 0) -> Plan:
        return replace(
            whole(seed),
            mixed=Curriculum("near and far", 8, 27, request.param),
            far=Curriculum("far only", 18, 27, 5),
            lags=(8, 27),
            budget=Budget(rows=4, hidden=8, width=6, tested=20),
        )

    monkeypatch.setattr(Plan, "quick", quick)


def test_demo_tells_its_story(run, tmp_path: Path, tiny):
    code, out, _ = run("demo", "--quick", "--out", "d.html")
    assert code == 0
    for word in ("sigmoid RNN", "chrono LSTM", "P(John)", "inf, backward, step", "d.html"):
        assert word in out
    assert max(map(len, out.splitlines())) <= 100
    page = (tmp_path / "d.html").read_text()
    assert "Jane said hi to" in page
    assert "<script src" not in page and '<link rel="stylesheet' not in page


@pytest.mark.parametrize("tiny", [60], indirect=True)  # a loss is kept each 50 updates
def test_demo_compares_the_networks_that_are_named(run, tiny):
    code, out, _ = run("demo", "--quick", "--json", "--cells", "Layer-Norm LSTM, mingru,leaky rnn")
    assert code == 0
    found = json.loads(out)
    for rows in (found["near_and_far"], found["far_only"]):
        names = [row["name"] for row in rows["networks"]]
        assert names == ["layer-norm LSTM", "minGRU", "leaky RNN"]
        assert all(row["losses"] or row["updates"] < 50 for row in rows["networks"])
    page = Path(found["page"]).read_text()
    assert "The minGRU is not of the form" in page and "Chrono:" not in page


def test_demo_refuses_a_network_that_there_is_not(run, monkeypatch):
    monkeypatch.setattr("throughtime.cli.demo.study", lambda *_: pytest.fail("it trained"))
    refused(run("demo", "--cells", "LSTM,mamba"), "'mamba'", "peephole LSTM", "chrono LSTM")
    refused(run("demo", "--cells", "LSTM,lstm"), "LSTM is named twice")


@pytest.mark.parametrize("tiny", [3], indirect=True)
def test_demo_gives_the_same_numbers_for_the_same_seed(run, tiny):
    found = []
    for arguments in (["3"], ["3"], ["4", "--cells", "LSTM"]):
        code, out, _ = run("demo", "--quick", "--json", "--seed", *arguments)
        numbers = json.loads(out)
        assert code == 0
        kinds = (numbers["near_and_far"]["networks"], numbers["far_only"]["networks"])
        for row in (numbers, *kinds[0], *kinds[1]):
            row.pop("seconds")
        found.append((numbers, [row for rows in kinds for row in rows if row["name"] == "LSTM"]))
    assert found[0] == found[1]
    for one, other in zip(found[0][1], found[2][1], strict=True):
        assert one["reach_before"] != other["reach_before"]


def test_demo_refuses_a_page_that_cannot_be_written_before_it_trains(run, monkeypatch):
    monkeypatch.setattr("throughtime.cli.demo.study", lambda *_: pytest.fail("it trained"))
    refused(run("demo", "--out", "none/d.html"), "none/d.html")
