"""`throughtime replay`, as a user meets it."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import pytest
import torch

from throughtime.watch import Keeper

from .conftest import refused

TRAIN = """
import torch
from torch import nn

class Model(nn.Module):
    def __init__(self, hidden=8):
        super().__init__()
        self.rnn, self.drop, self.read = nn.RNN(3, hidden), nn.Dropout(0.3), nn.Linear(hidden, 1)
    def forward(self, x):
        return self.read(self.drop(self.rnn(x)[0]))

def losses(model, batch):
    x, y = batch
    return (model(x) - y.log()).pow(2).mean()

def mended(model, batch):
    x, y = batch
    return (model(x) - (y + 1e-3).log()).pow(2).mean()

def data(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(20, 4, 3, generator=generator), torch.rand(20, 4, 1, generator=generator)

def build():
    return Model(), data(), losses

def mend():
    return Model(), data(), mended

def wider():
    return Model(9), data(), losses

def other():
    return Model(), data()[0], losses

def fails():
    return Model(), data(), lambda model, batch: 1 / 0
"""


@pytest.fixture
def kept(tmp_path: Path):
    """Train until it breaks, and give the names of the bundles with a batch and without."""
    (tmp_path / "m.py").write_text(TRAIN)

    def broken(give: bool = True, spoil=lambda x, y: y[3, 1].zero_(), rate: float = 0.01) -> str:
        names: dict = {"__name__": "m"}
        exec(compile(TRAIN, "m.py", "exec"), names)
        torch.manual_seed(0)
        model = names["Model"]()
        keeper = Keeper(model, tmp_path / "broken")
        optimizer = torch.optim.SGD(model.parameters(), rate)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for step in range(1, 5):
                x, y = names["data"](step)
                if step == 3:
                    spoil(x, y)
                keeper.before(step)
                loss = names["losses"](model, (x, y))
                keeper.after(loss, (x, y) if give else None)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        assert keeper.bundle is not None
        return str(keeper.bundle.relative_to(tmp_path))

    yield broken
    sys.modules.pop("m", None)


def test_it_breaks_again_bit_by_bit_and_says_where(run, kept):
    code, out, err = run("replay", kept(), "m.py:build")
    words = " ".join(out.split())
    assert code == 1 and err == ""
    assert "In the training: The loss of step 3 is inf" in words
    assert "it breaks again; the loss is inf, bit by bit as it was" in words
    assert "is log (m.py, line" in words and "at [3, 1, 0]" in words
    assert "error: loss-nonfinite" in out


def test_what_was_mended_is_finite(run, kept):
    code, out, _ = run("replay", kept(), "m.py:mend")
    assert code == 0 and "everything is finite" in out and "which is not what it was" in out


def test_without_a_batch_the_call_is_repeated(run, kept):
    code, out, err = run("replay", kept(give=False), "m.py:other")
    assert code == 1 and "the losses of FUNCTION are not used" in " ".join(err.split())
    assert "it breaks again; the loss is inf." in " ".join(out.split())


def test_as_json(run, kept):
    code, out, _ = run("replay", kept(), "m.py:build", "--json")
    found = json.loads(out)
    assert code == 1 and found["step"] == 3 and found["same_loss"] is True
    assert found["finite"] is False and found["losses"] == ["inf"]
    assert found["operation"]["name"] == "log" and found["found"]["what"] == "loss"
    assert found["findings"][0]["code"] == "loss-nonfinite"


def test_remedies_that_are_against_it_are_tried(run, kept):
    bundle = kept(spoil=lambda x, y: (x.mul_(1e4), y[3, 1].zero_()))
    code, out, _ = run("replay", bundle, "m.py:build")
    assert code == 1 and "input-scale" in out and "as it is" in out and "standardise" in out
    code, out, _ = run("replay", bundle, "m.py:build", "--no-remedies")
    assert code == 1 and "as it is" not in out


def test_an_update_that_broke_is_told(run, kept):
    code, out, _ = run("replay", kept(rate=3e38), "m.py:build", "--no-remedies")
    assert code == 1 and "SGD with a rate of 3e+38" in " ".join(out.split())


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("m.py:wider", ("of another model", "(9, 3)", "(8, 3)")),
        ("m.py:fails", ("ZeroDivisionError", "m.py, line")),
        ("m.py", ("FILE.py:FUNCTION",)),
    ],
)
def test_what_does_not_fit_is_one_line(run, kept, target, words):
    refused(run("replay", kept(), target), *words)


def test_a_bundle_that_was_cut_is_one_line(run, kept, tmp_path):
    bundle = kept()
    refused(run("replay", "nothing", "m.py:build"), "there is no bundle")
    file = tmp_path / bundle / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    refused(run("replay", bundle, "m.py:build"), "was cut or changed")


def test_other_versions_are_told(run, kept, monkeypatch):
    from throughtime.watch.keep import stored

    own = stored.versions()
    monkeypatch.setattr(stored, "versions", lambda: {**own, "torch": "1.0"})
    path = kept()
    monkeypatch.setattr(stored, "versions", lambda: own)
    code, _, err = run("replay", path, "m.py:build")
    assert code == 1 and "written with torch 1.0 (here" in " ".join(err.split())
