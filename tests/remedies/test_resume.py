"""A treatment that is cut off and taken up again comes out as if nothing had happened."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import throughtime as tt
from throughtime.errors import CheckpointError, FileError, InputTypeError, InputValueError
from throughtime.remedies.finished import Finished, Folder
from throughtime.remedies.training import Entrant, halving, rounds

ABOUT = {"model": "m", "losses": [1.0], "lag": 3, "seeds": 2, "updates": 8}
NAMES = ["a b", "c/d", "e", "f"]
SEEDS, UPDATES = 2, 8


class Stopped(BaseException):
    """Stands for Ctrl-C or a kill at a place that is chosen."""


class Train:
    """A training whose score hangs on all rounds before it, and on the random state."""

    def __init__(self, stops: int | None = None) -> None:
        self.calls, self.stops = 0, stops

    def __call__(self, model: nn.Linear, updates: int) -> float:
        if self.calls == self.stops:
            raise Stopped
        self.calls += 1
        assert model.training == (model.number == 0)  # as the round before left it
        model.train(False)
        model.number.add_(1)
        with torch.no_grad():
            model.weight.mul_(0.9).add_(updates * torch.randn(()) + 0.1 * torch.rand(()))
        if float(model.weight[0, 0].detach()) > 1e9:
            raise ArithmeticError("diverged")
        return float(model.weight.detach().sum())


def entrant(name: str, number: int) -> Entrant:
    def make(seed: int) -> nn.Module:
        model = nn.Linear(1, 1, bias=False)
        model.register_buffer("number", torch.zeros((), dtype=torch.long))
        with torch.no_grad():
            model.weight.fill_(1e10 if name == "f" else number + 10 * seed)
        return model

    return Entrant(name, make, raises=number == 0)


def run(finished: Finished, train: Train) -> list[tuple[object, ...]]:
    base, *others = everyone = [entrant(n, i) for i, n in enumerate(["as it is", *NAMES])]
    finished.begin(NAMES)
    halving(base, others, train, SEEDS, UPDATES, lambda name: None, finished)
    return [(e.name, e.scores, e.updates, e.error) for e in everyone]


@pytest.fixture(scope="module")
def whole() -> tuple[list[tuple[object, ...]], int]:
    train = Train()
    return run(Finished(), train), train.calls


def test_the_trainings_are_worth_the_name(whole):
    found, calls = whole
    assert len(rounds(len(NAMES), UPDATES)) == 3 and calls > 15
    assert {updates for _, _, updates, _ in found} == {0, 2, 4, 8}
    assert [error for *_, error in found if error] == ["training raised ArithmeticError: diverged"]


def test_stopped_after_each_training_in_turn(whole, tmp_path):
    found, calls = whole
    for stop in range(calls):
        path, first, second = tmp_path / str(stop), Train(stop), Train()
        with pytest.raises(Stopped):
            run(Folder(path, ABOUT), first)
        copies = [p.name.split(".")[:2] for p in path.glob("*.pt")]
        assert all(copies.count(copy) == 1 for copy in copies), "a round before was kept"
        assert run(Folder(path, ABOUT), second) == found
        assert first.calls + second.calls == calls, "a training was done twice, or left out"
        assert [p.name for p in path.iterdir()] == ["scores.jsonl"]  # no copy is left over
        third = Train()
        assert run(Folder(path, ABOUT), third) == found and third.calls == 0


def test_cut_off_at_any_byte(whole, tmp_path):
    """Whatever was written last: a cut line counts as not written, and the rest is true."""
    found, calls = whole
    with pytest.raises(Stopped):
        run(Folder(tmp_path / "whole", ABOUT), Train(calls // 2))
    kept = {p.name: p.read_bytes() for p in (tmp_path / "whole").iterdir()}
    scores = kept["scores.jsonl"]
    places = random.Random(0).sample(range(len(scores)), 15)
    for place in [0, 1, scores.index(b"\n"), scores.index(b"\n") + 1, *places]:
        path = tmp_path / str(place)
        path.mkdir(exist_ok=True)
        for name, data in kept.items():
            (path / name).write_bytes(data)
        (path / "scores.jsonl").write_bytes(scores[:place])
        (path / "c%2Fd.0.0.pt.part").write_bytes(b"half a file")
        again = Train()
        assert run(Folder(path, ABOUT), again) == found
        assert again.calls + scores[:place].count(b'"score"') >= calls
        lines = (path / "scores.jsonl").read_text().splitlines()
        assert all(json.loads(line) for line in lines)


@pytest.mark.parametrize("damage", ["gone", "cut", "of another model"])
def test_a_copy_that_is_lost_is_trained_again_from_the_beginning(whole, tmp_path, damage):
    found, calls = whole
    with pytest.raises(Stopped):
        run(Folder(tmp_path, ABOUT), Train(calls - 2))
    copies = list(tmp_path.glob("*.pt"))
    assert copies
    for path in copies:
        if damage == "gone":
            path.unlink()
        elif damage == "cut":
            path.write_bytes(path.read_bytes()[:100])
        else:
            torch.save({"state": nn.Linear(3, 1).state_dict(), "training": {}}, path)
    again = Train()
    assert run(Folder(tmp_path, ABOUT), again) == found
    assert again.calls > 2


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ({"model": "n"}, "the model has other weights"),
        ({"losses": [1.1]}, "losses on the batch are others"),
        ({"losses": [1.0, 1.0]}, "losses on the batch are others"),
        ({"lag": 4}, "lag was 3 there and is 4 now"),
        ({"seeds": 1}, "seeds was 2 there and is 1 now"),
        ({"updates": 9}, "updates was 8 there and is 9 now"),
    ],
)
def test_what_belongs_to_another_training_is_refused(tmp_path, named, words):
    Folder(tmp_path, ABOUT)
    before = (tmp_path / "scores.jsonl").read_bytes()
    with pytest.raises(CheckpointError, match=words) as raised:
        Folder(tmp_path, {**ABOUT, **named})
    assert "\n" not in str(raised.value) and "Give another folder" in str(raised.value)
    assert (tmp_path / "scores.jsonl").read_bytes() == before
    Folder(tmp_path, {**ABOUT, "losses": [1.0 + 1e-5]})  # another machine's last digits


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hello\n", r"line 1 of scores\.jsonl is damaged"),
        ('{"format": "x", "version": 1}\n', "written by something else"),
        ("[]\n", r"line 1 of scores\.jsonl is damaged"),
    ],
)
def test_what_is_no_record_is_refused(tmp_path, text, words):
    (tmp_path / "scores.jsonl").write_text(text)
    with pytest.raises(CheckpointError, match=words):
        Folder(tmp_path, ABOUT)


def test_damage_further_down_and_other_remedies_are_refused(tmp_path):
    Folder(tmp_path, ABOUT).begin(NAMES)
    with pytest.raises(CheckpointError, match="the remedies were a b, c/d, e, f there"):
        Folder(tmp_path, ABOUT).begin(["e"])
    with open(tmp_path / "scores.jsonl", "a") as file:
        file.write("\0\0\0\n")
    with pytest.raises(CheckpointError, match=r"line 3 of scores\.jsonl is no score"):
        Folder(tmp_path, ABOUT)


# --- `tt.treat` ------------------------------------------------------------------------------

SCRIPT = """
import json, os, random, signal, sys, time
import torch
import throughtime as tt
torch.set_num_threads(1)

def treated(folder, pause=0.0):
    torch.manual_seed(0)
    model, x = torch.nn.LSTM(2, 6), torch.randn(9, 3, 2)

    def losses(model):
        return model(x)[0][-1].pow(2).mean()

    def train(model, updates):
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for _ in range(updates):
            loss = losses(model) + 0.01 * torch.randn(())
            optimizer.zero_grad(), loss.backward(), optimizer.step()
            time.sleep(pause)
        return -losses(model)

    found = tt.treat(model, losses, train=train, seeds=2, updates=6, resume=folder,
                     only=["chrono", "orthogonal", "forget-bias"])
    return [(r.name, list(r.scores), r.updates, r.helps) for r in found.rows]

# The first optimizer loads torch's compiler: once here, and not in every child.
torch.optim.SGD([torch.zeros(1)], 0.1)
folder, draws = sys.argv[1], random.Random(int(sys.argv[2]))

def lines():
    path = folder + "/scores.jsonl"
    return open(path).read().count("score") if os.path.exists(path) else 0

for _ in range(4):
    child, more = os.fork(), lines() + draws.randrange(1, 5)
    if not child:
        treated(folder, 0.01)
        os._exit(0)
    while lines() < more and not os.waitpid(child, os.WNOHANG)[0]:
        time.sleep(0.001)
    time.sleep(draws.uniform(0, 0.05))
    try:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    except (ProcessLookupError, ChildProcessError):
        break
print(json.dumps([lines(), treated(folder), treated(None)]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="needs fork")
def test_killed_at_random_places(tmp_path):
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "kept"), str(random.randrange(10**6))],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    finished, resumed, whole = json.loads(ran.stdout.splitlines()[-1])
    assert resumed == whole and len(whole) == 4
    assert finished >= 4, "killed before anything was finished"


class Losses:
    """A batch of its own."""

    def __init__(self, seed: int = 0) -> None:
        self.x = torch.randn(9, 3, 2, generator=torch.Generator().manual_seed(seed))

    def __call__(self, model: nn.Module) -> Tensor:
        return model(self.x)[0][-1].pow(2).mean()


def lstm(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.LSTM(2, 6)


def test_treat_refuses_the_scores_of_another_model_batch_or_budget(tmp_path):
    calls = 0

    def train(model: nn.Module, updates: int) -> float:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return float(updates)

    named = {"train": train, "only": ["chrono"], "resume": tmp_path}
    assert tt.treat(lstm(), Losses(), **named).interrupted is False
    calls = 2
    with pytest.raises(CheckpointError, match="other weights"):
        tt.treat(lstm(1), Losses(), **named)
    with pytest.raises(CheckpointError, match="losses on the batch"):
        tt.treat(lstm(), Losses(1), **named)
    with pytest.raises(CheckpointError, match="seeds was 1 there"):
        tt.treat(lstm(), Losses(), **named, seeds=2)
    with pytest.raises(CheckpointError, match="remedies were chrono there"):
        tt.treat(lstm(), Losses(), **{**named, "only": ["orthogonal"]})
    # Nothing is trained that is there; Ctrl-C would be raised by the first call.
    assert tt.treat(lstm(), Losses(), **named)["chrono"].scores == (400.0,)


def test_ctrl_c_keeps_what_was_finished(tmp_path):
    def train(model: nn.Module, updates: int) -> float:
        calls.append(updates)
        if len(calls) == stop:
            raise KeyboardInterrupt
        return float(len(calls))

    calls: list[int] = []
    stop = 4
    named = {"train": train, "seeds": 2, "only": ["chrono", "orthogonal"], "resume": tmp_path}
    found = tt.treat(lstm(), Losses(), **named)
    assert found.interrupted and found.rows[0].scores == (1.0, 2.0)
    calls, stop = [0, 0, 0], 0
    found = tt.treat(lstm(), Losses(), **named)
    assert not found.interrupted
    assert found["orthogonal"].scores != () and len(calls) == 6 + 4


def test_bad_places_for_scores_are_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    train = {"train": lambda model, updates: 1.0, "only": "chrono"}
    with pytest.raises(FileError, match="resume takes a folder"):
        tt.treat(lstm(), Losses(), **train, resume=tmp_path / "file")
    with pytest.raises(InputTypeError, match="resume must be a path to a folder; got int"):
        tt.treat(lstm(), Losses(), **train, resume=3)
    with pytest.raises(InputValueError, match="give train= with it"):
        tt.treat(lstm(), Losses(), resume=tmp_path)


def test_a_folder_is_made(tmp_path: Path):
    train = {"train": lambda model, updates: 1.0, "only": "chrono"}
    tt.treat(lstm(), Losses(), **train, resume=str(tmp_path / "a" / "b"))
    assert (tmp_path / "a" / "b" / "scores.jsonl").exists()
